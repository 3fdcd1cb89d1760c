"""Two Kronecker factors belong to a matrix's gradient G: L averages G G^T (of rows), R averages G^T G (of columns).

A factor is symmetric, so only the blocks on and above its diagonal are computed, in strips that each begin at the
diagonal: of six 21 of 36 blocks, seven twelfths of the work. What stands below is stale until `complete_` mirrors it.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .base import Reading, median

SIDES = ("left", "right")  # of the rows, and of the columns: names in an optimizer's state
STRIPS, HEIGHT = 6, 96  # so many at most, no lower than that: more would save FLOPs and cost time


def strips(n: int) -> list[tuple[int, int]]:
    """Return rows (top, bottom) of an (n, n) matrix; of each strip the columns from `top` on are computed."""
    height = max(-(-n // STRIPS), HEIGHT)
    return [(top, min(top + height, n)) for top in range(0, n, height)]


def average_gram_(factor: Tensor, x: Tensor, beta: float) -> Tensor:
    """factor <- beta factor + (1 - beta) x x^T, in place. factor: (n, n), x: (n, columns)."""
    return _gram_(factor, x, beta, 1 - beta)


def add_gram_(factor: Tensor, x: Tensor) -> Tensor:
    """factor <- factor + x x^T, in place. factor: (n, n), x: (n, columns)."""
    return _gram_(factor, x, 1, 1)


def _gram_(factor: Tensor, x: Tensor, beta: float, alpha: float) -> Tensor:
    for top, bottom in strips(len(factor)):
        factor[top:bottom, top:].addmm_(x[top:bottom], x[top:].mT, beta=beta, alpha=alpha)
    return factor


def gram_flops(n: int, columns: int) -> int:
    return sum(2 * (bottom - top) * (n - top) * columns for top, bottom in strips(n))


def complete_(factor: Tensor) -> Tensor:
    """Mirror the blocks above the diagonal to those below it, in place."""
    for top, bottom in strips(len(factor)):
        factor[bottom:, top:bottom] = factor[top:bottom, bottom:].mT
    return factor


def eigh(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (n,), the largest first, and eigenvectors as columns (n, n), of a whole symmetric matrix.

    Where fp32 does not converge, in float64. All NaN where the factor is not finite: a run that has diverged is for
    whoever watches its loss to name.
    """
    try:
        values, vectors = torch.linalg.eigh(factor)
    except torch.linalg.LinAlgError:
        if not factor.isfinite().all():
            return torch.full_like(factor[0], torch.nan), torch.full_like(factor, torch.nan)
        values, vectors = (x.to(factor.dtype) for x in torch.linalg.eigh(factor.double()))
    return values.flip(-1), vectors.flip(-1)


def eigh_flops(n: int) -> int:
    return 9 * n**3  # a convention (Golub & Van Loan, section 8.3): the count depends on the matrix


def spread(costs: Sequence[int], every: int) -> list[int]:
    """Choose a step from 0 to every - 1 for each cost, such that no step pays much more than another."""
    paid, steps = [0] * every, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        steps[i] = paid.index(min(paid))
        paid[steps[i]] += costs[i]
    return steps


def spectrum_readings(spectra: Iterable[Tensor]) -> dict[str, Reading | float]:
    """Return two measures of each factor's eigenvalues (n,), to take the medians of.

    condition: largest over smallest, as far as the dtype can tell (fp32: 8e6). Many factors are singular: LayerNorm
    takes the direction of the mean from whatever is read from the residual stream.
    effective_rank: (sum of them)^2 / (n sum of their squares), the share of directions that matter.
    """
    ratios, shares = [], []
    for values in spectra:
        eps, tiny = torch.finfo(values.dtype).eps, torch.finfo(values.dtype).tiny
        scaled = values.clamp(min=0) / values.max().clamp(min=tiny)  # squares of fp32 eigenvalues could underflow
        ratios.append(1 / scaled.min().clamp(min=eps))
        shares.append(scaled.sum().square() / (len(scaled) * scaled.square().sum()).clamp(min=eps))
    if not ratios:
        return {}
    return {"condition": Reading(torch.stack(ratios), median), "effective_rank": Reading(torch.stack(shares), median)}
