"""The scatter of final losses over seeds, and the interval that it gives a difference between two means."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from judge.declared import Sigma

CONFIDENCE = 0.95
SEEDS = 3  # at every length, before there is an interval
SAME = 1e-9  # relative: seeds that differ by less are copies, whatever rounding left between them


def mean_and_deviation(values: Sequence[float] | np.ndarray) -> tuple[float | None, float | None]:
    """Return the mean and the standard deviation over seeds; None for what so few values do not tell."""
    values = np.asarray(values)
    return (float(values.mean()) if len(values) else None), (float(values.std(ddof=1)) if len(values) > 1 else None)


def pooled_spread(cells: Sequence[np.ndarray]) -> tuple[float, int]:
    """Return the standard deviation of one run over seeds, pooled over an arm's lengths, and its degrees of freedom.

    cells: the values over seeds at each length. NaN and 0 where none has two. Only the scatter within cells
    counts, so that a law that fits badly does not widen it.
    """
    freedom = sum(len(cell) - 1 for cell in cells)
    squares = sum(float(((cell - cell.mean()) ** 2).sum()) for cell in cells)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


class Spread(NamedTuple):
    """The standard deviation of one run over seeds, and the degrees of freedom of its estimate."""

    value: float
    freedom: float
    declared: bool  # by a person, for every arm with too few seeds


def known_spread(cells: Sequence[np.ndarray], sigma: Sigma | None = None) -> Spread | None:
    """Return an arm's own spread where every cell has three seeds, or else the declared one; None without either.

    Identical seeds tell none: three copies of one run are not three seeds, also where rounding of their mean leaves a
    difference.
    """
    if min(map(len, cells)) < SEEDS:
        return Spread(sigma.value, sigma.freedom, True) if sigma else None
    value, freedom = pooled_spread(cells)
    copies = SAME * max(float(np.abs(cell).max()) for cell in cells)
    return Spread(value, freedom, False) if value > copies else None


def freedom_of(variances: tuple[float, float], spreads: tuple[Spread, Spread]) -> float:
    """Return the degrees of freedom of a difference whose two variances rest on these spreads.

    A declared sigma of both arms is one estimate, and gives no more freedom than its own.
    """
    if spreads[0].declared and spreads[1].declared:
        return spreads[0].freedom
    return welch(variances, (spreads[0].freedom, spreads[1].freedom))


def half_width(variances: Sequence[float], freedoms: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Return half the width of the interval of a sum of independent errors with these variances."""
    if sum(variances) == 0:
        return 0.0
    return float(stdtrit(welch(variances, freedoms), (1 + confidence) / 2)) * math.sqrt(sum(variances))


def surely_lower(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether the mean of ours is below that of theirs by Welch's t test, at 95 %; no, below two seeds each."""
    cells = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if min(map(len, cells)) < 2:
        return False
    one, other = (float(cell.var(ddof=1)) / len(cell) for cell in cells)
    wide = half_width((one, other), (len(cells[0]) - 1, len(cells[1]) - 1))
    return bool(cells[0].mean() + wide < cells[1].mean())


def welch(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of independent errors with these variances (Welch, 1947)."""
    terms = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / terms if terms else math.inf
