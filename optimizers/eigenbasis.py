"""The eigenbasis of a symmetric matrix: found once, then followed as the matrix drifts (SOAP, arXiv 2409.11321).

A basis holds eigenvectors as columns, those of the largest eigenvalues first.
"""

import torch
from torch import Tensor

from optimizers.kronecker import eigh, eigh_flops

PANEL = 128  # columns factored at a time


def first_basis(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Basis (n, n) and eigenvalues (n,) of a factor (n, n).

    The first G G^T of a tall G has a null space, of which rounding alone would choose a basis: the same run in other
    micro-batches, or on another number of ranks, would be another run from there on. Householder's completion of the
    other eigenvectors, a continuous function of them, takes its place.
    """
    values, vectors = eigh(factor)
    null = values <= values[0] * len(values) * torch.finfo(values.dtype).eps
    completed = orthonormal(vectors.masked_fill(null, 0))  # a reflection that finds a column of zeros leaves it alone
    return torch.where(null, completed, vectors), values


def next_basis(factor: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the power iteration from `basis`, and QR.

    Returns:
        The new basis (n, n); the order (n,) that its columns have among the old one's; the eigenvalues in that order,
        as the old basis estimates them.
    """
    power = factor @ basis
    values = (basis * power).sum(0)  # the diagonal of Q^T L Q
    order = values.argsort(descending=True, stable=True)
    power = power.index_select(1, order)
    return orthonormal(power), order, values[order]


def orthonormal(matrix: Tensor) -> Tensor:
    """The Q of matrix = Q R, all (n, n), by Householder reflections a panel at a time; the matrix is used up.

    The b reflections of a panel multiply to I - V T V^T (Schreiber & Van Loan 1989), so that nearly all of the work is
    in plain products. LAPACK does the same inside torch.linalg.qr, but with products of its own library: torch's are
    twice as fast on an AMD processor (kernels "onednn"), and the result differs by rounding alone.
    """
    n = len(matrix)
    panels = []
    for top in range(0, n, PANEL):
        end = min(top + PANEL, n)
        packed, tau = torch.geqrf(matrix[top:, top:end])  # (n - top, b)
        v = packed.tril(-1)
        v.diagonal().fill_(1)
        # T = (I + diag(tau) U)^-1 diag(tau), with U the strict upper triangle of V^T V; right for tau = 0 too.
        inner = (v.mT @ v).triu_(1).mul_(tau[:, None])
        t = torch.linalg.solve_triangular(inner, tau.diag(), upper=True, unitriangular=True)
        w = v @ t
        panels.append((top, v, w))
        if end < n:
            columns = matrix[top:, end:]
            columns.addmm_(v, w.mT @ columns, alpha=-1)  # (I - V T V^T)^T
    q = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    for top, v, w in reversed(panels):
        corner = q[top:, top:]  # elsewhere q is still I
        corner.addmm_(w, v.mT @ corner, alpha=-1)
    return q


def orthonormal_flops(n: int) -> int:
    """8/3 n^3, and what the panels add to that."""
    flops = 0
    for top in range(0, n, PANEL):
        rows, b = n - top, min(PANEL, n - top)
        flops += 2 * rows * b**2 - 2 * b**3 // 3  # the panel's own factors
        flops += 4 * rows * b**2 + b**3  # V^T V, T, V T
        flops += 4 * rows * b * (rows - b) + 4 * rows * b * rows  # what it does to the rest, and to Q
    return flops


def first_basis_flops(n: int) -> int:
    return eigh_flops(n) + orthonormal_flops(n)


def next_basis_flops(n: int) -> int:
    return 2 * n**3 + orthonormal_flops(n)
