"""The luck of the lowest of several trials: how far noise alone may bring it below a fresh run of its configuration.

    least(n) = n ∫ x φ(x) (1 - Φ(x))^(n-1) dx    the mean of the least of n standard normal numbers (Tippett, 1925)

On average the lowest of n trials lies below the true loss of its configuration by at least 0 nats, nearly so where one
trial is far better than the others, and by at most -sigma least(n), where all are equally good. A table that tells n
and not each trial's loss does not say which. So half of the bound is added to the loss of either arm, and the interval
reaches from the bound taken of the newcomer alone to the bound taken of the baseline alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from scipy.special import ndtr

from judge.declared import Declared
from judge.public.cell import Cell
from judge.scale import Figure, figures


@cache
def least(trials: int) -> float:
    """Return the mean of the least of so many independent standard normal numbers: 0 for one, below 0 for more."""
    x = np.linspace(-12, 12, 24_001)
    density = trials * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * ndtr(-x) ** (trials - 1)
    return float((x * density).sum() * (x[1] - x[0]))


def raised(cell: Cell, sigma: float, share: float) -> Cell:
    """Return a cell whose loss is the lowest of its trials, raised by a share of the most that luck took off it.

    sigma: standard deviation of one trial's loss, nats. share: 0 where one trial is far better, 1 where all are equal.
    """
    if cell.lowest is None:
        return cell
    return replace(cell, losses=(cell.lowest - share * sigma * least(cell.trials),))


def lucky_figures(cells: Sequence[Cell], baseline: str, declared: Declared) -> list[Figure]:
    """Return the matched speed-ups by the lowest of all trials, with what luck may have done to either arm.

    Raises ValueError if no sigma is declared, or the baseline has no cell.
    """
    if declared.sigma is None:
        raise ValueError("the luck of the lowest trial needs a declared sigma")
    sigma = declared.sigma.value

    def ratios(own: float, of_baseline: float) -> list[Figure]:
        share = {True: of_baseline, False: own}
        return figures([raised(each, sigma, share[each.arm == baseline]) for each in cells], baseline, declared)

    return [
        replace(middle, speedup=replace(middle.speedup, low=slow.speedup.low, high=fast.speedup.high))
        for middle, slow, fast in zip(ratios(0.5, 0.5), ratios(1, 0), ratios(0, 1), strict=True)
    ]
