"""An eigenbasis is computed once and then follows its symmetric matrix as that drifts (SOAP, arXiv 2409.11321).

A basis holds eigenvectors as columns, those of the largest eigenvalues first.
"""

import torch
from torch import Tensor

from .kronecker import add_gram_, eigh, eigh_flops, gram_flops

PANEL = 64  # columns factored at a time


def first_basis(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the basis (n, n) and the eigenvalues (n,) of a factor (n, n).

    The first G G^T of a tall G has a null space, of which rounding alone would choose a basis: the same run in other
    micro-batches, or on another number of ranks, would be another run from there on. Householder's completion of the
    other eigenvectors, a continuous function of them, takes its place.

    It is all done in float64, where the device has it: eigh of a singular float32 matrix has corrupted memory in some
    versions of CUDA (pytorch issues 94772 and 105359). The result is in the factor's dtype.
    """
    wide = factor if factor.device.type == "mps" else factor.double()
    values, vectors = eigh(wide)
    null = values <= values[0] * len(values) * torch.finfo(factor.dtype).eps  # the factor's own rounding
    completed = orthonormal(vectors.masked_fill(null, 0))  # a reflection that meets a column of zeros leaves it alone
    return torch.where(null, completed, vectors).to(factor.dtype), values.to(factor.dtype)


def next_power(factor: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of the power iteration from `basis`; made orthonormal the result is the next basis.

    Returns:
        L Q (n, n), the columns sorted; the order (n,) that they have among the old basis'; the eigenvalues in that
        order, as the old basis estimates them.
    """
    power = factor @ basis
    values = (basis * power).sum(0)  # the diagonal of Q^T L Q
    order = values.argsort(descending=True, stable=True)
    return power.index_select(1, order), order, values[order]


def orthonormal(matrix: Tensor) -> Tensor:
    """Return the Q of matrix = Q R, all (n, n), by Householder reflections a panel at a time; in place.

    The b reflections of a panel multiply to I - V T V^T (Schreiber & Van Loan 1989), so that nearly all of the work is
    in plain products. LAPACK does the same inside torch.linalg.qr, but with products of its own library: torch's are
    twice as fast on an AMD processor (kernels "onednn"), and the result differs by rounding alone.
    """
    n, factors = len(matrix), []
    for top in range(0, n, PANEL):
        end = min(top + PANEL, n)
        panel = matrix[top:, top:end]  # (n - top, b)
        packed, tau = torch.geqrf(panel)
        v = _below(panel.copy_(packed))
        # T = (I + diag(tau) U)^-1 diag(tau), with U the strict upper triangle of V^T V; right for tau = 0 too.
        inner = (v.mT @ v).triu_(1).mul_(tau[:, None])
        t = torch.linalg.solve_triangular(inner, tau.diag(), upper=True, unitriangular=True)
        factors.append((top, end, t))
        if end < n:
            columns = matrix[top:, end:]
            columns.addmm_(v @ t.mT, v.mT @ columns, alpha=-1)  # (I - V T V^T)^T
    for top, end, t in reversed(factors):
        v, corner = _below(matrix[top:, top:end]), matrix[top:, top:]
        corner[: end - top] = 0  # in these rows and columns Q is still I
        corner[:, : end - top] = 0
        corner.diagonal()[: end - top] = 1
        corner.addmm_(v @ t, v.mT @ corner, alpha=-1)
    return matrix


def _below(panel: Tensor) -> Tensor:
    """Return the reflections' vectors, which geqrf leaves below the diagonal without their leading 1."""
    v = panel.tril(-1)
    v.diagonal().fill_(1)
    return v


def cholesky_orthonormal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Q of a QR by Cholesky factors of the columns' Gram matrix, twice (CholeskyQR2), and if it is sound.

    A Gram matrix squares the condition: the columns of L Q, which differ in length above all, are scaled to 1 first,
    and the first round is in float64, which the GPUs that train models multiply as fast as float32. The answer is a
    tensor, so that nothing waits for the device. On a GPU this is a few large operations in place of a panel after the
    other (not measured yet); on a CPU it is slower.
    """
    q = matrix / matrix.norm(dim=0).clamp_(min=torch.finfo(matrix.dtype).tiny)
    sound = torch.ones((), dtype=torch.bool, device=q.device)
    for dtype in (torch.float64, matrix.dtype):
        q = q.to(dtype)
        gram = add_gram_(torch.zeros_like(q), q.mT)
        factor, info = torch.linalg.cholesky_ex(gram, upper=True)  # reads no more than the triangle that there is
        sound = sound & (info == 0)
        q = torch.linalg.solve_triangular(factor, q, upper=True, left=False)
    factor.diagonal().sub_(1)  # how far the first round was from an orthonormal matrix; NaN is no answer either
    return q, sound & (factor.norm() < 0.5)


def orthonormal_flops(n: int) -> int:
    """Count the FLOPs of `orthonormal`: 8/3 n^3, and what the panels add to that."""
    flops = 0
    for top in range(0, n, PANEL):
        rows, b = n - top, min(PANEL, n - top)
        flops += 2 * rows * b**2 - 2 * b**3 // 3  # the panel's own factors
        flops += 4 * rows * b**2 + b**3 + 2 * rows * b**2 * (b < rows)  # V^T V, T, V T, and V T^T before the last
        flops += 4 * rows * b * (rows - b) + 4 * rows * b * rows  # what it does to the rest, and to Q
    return flops


def first_basis_flops(n: int) -> int:
    return eigh_flops(n) + orthonormal_flops(n)


def cholesky_orthonormal_flops(n: int) -> int:
    return 2 * (gram_flops(n, n) + n**3 // 3 + n**3)


def next_basis_flops(n: int, qr: str = "householder") -> int:
    return 2 * n**3 + (orthonormal_flops(n) if qr == "householder" else cholesky_orthonormal_flops(n))
