"""A Kronecker factor that is upper triangular is multiplied, fitted and bounded here; or its diagonal alone, a vector.

Only the blocks on and above a triangle's diagonal are computed, in the strips of `optimizers.kronecker`.
"""

import torch
from torch import Tensor

from .kronecker import average_gram_, complete_, gram_flops, strips


def times(q: Tensor, x: Tensor) -> Tensor:
    """Return q x. q: (n, n) upper triangular, or (n,); x: (n, columns)."""
    if q.ndim == 1:
        return q[:, None] * x
    out = x.new_empty(x.shape)
    for top, bottom in strips(len(q)):
        torch.mm(q[top:bottom, top:], x[top:], out=out[top:bottom])
    return out


def transposed_times(q: Tensor, x: Tensor) -> Tensor:
    """Return q^T x, as `times` does q x."""
    if q.ndim == 1:
        return q[:, None] * x
    out = x.new_zeros(x.shape)
    for top, bottom in strips(len(q)):
        out[top:].addmm_(q[top:bottom, top:].mT, x[top:bottom])
    return out


def times_flops(n: int, columns: int) -> int:
    """Count the FLOPs of `times` or `transposed_times` with a triangle."""
    return gram_flops(n, columns)


def transposed_solve(q: Tensor, x: Tensor) -> Tensor:
    """Return q^-T x."""
    return x / q[:, None] if q.ndim == 1 else torch.linalg.solve_triangular(q.mT, x, upper=False)


def transposed_solve_flops(n: int, columns: int) -> int:
    return n**2 * columns


def fit_(q: Tensor, a: Tensor, b: Tensor, rate: float) -> None:
    """q <- q - rate triu(a a^T - b b^T) q / |a a^T + b b^T|, in place; of a diagonal q, diagonals alone.

    a, b: (n, columns). The norm is the spectral one, of which a lower bound is taken.
    """
    tiny = torch.finfo(q.dtype).tiny
    if q.ndim == 1:
        aa, bb = a.square().sum(1), b.square().sum(1)
        q.sub_((aa - bb).mul_(q).mul_(rate / (aa + bb).max().clamp(min=tiny)))
        return
    aa, bb = (average_gram_(torch.empty_like(q), x, beta=0.0) for x in (a, b))
    size = rate / _spectral_bound(complete_(aa + bb)).clamp(min=tiny)
    difference = aa.sub_(bb).triu_().mul_(size)
    q.sub_(_product(difference, q))


def fit_flops(n: int, columns: int) -> int:
    """Count the FLOPs of `fit_` with a triangle: two Gram matrices, a norm, a product of triangles."""
    return 2 * gram_flops(n, columns) + 4 * n**2 + sum(2 * (bottom - top) * (n - top) ** 2 for top, bottom in strips(n))


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return x y, all of them upper triangular, (n, n)."""
    out = torch.zeros_like(x)
    for top, bottom in strips(len(x)):
        torch.mm(x[top:bottom, top:], y[top:, top:], out=out[top:bottom, top:])
    return out


def _spectral_bound(s: Tensor) -> Tensor:
    """Return a lower bound of the largest eigenvalue of a symmetric s, by one and a half steps of power iteration.

    They start from its longest column, as in the authors' code; 0 where s is 0.
    """
    largest = s.abs().max()
    s = s / largest
    x = s.index_select(1, s.square().sum(0).argmax().reshape(1)).squeeze(1)
    x = s.mv(x)
    return torch.where(largest > 0, s.mv(x / x.norm()).norm() * largest, largest)
