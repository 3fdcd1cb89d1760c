"""Measures how many times as long one side takes as the other, by turns in the order A B B A, with a 95 % interval.

A round's log ratio is the mean log of its turns of A less that of B's: what changes steadily over a round falls out.
The interval is Student's over the rounds' log ratios, none of which is dropped. A machine whose speed changes faster
than that widens the interval and does not move it.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple


class Ratio(NamedTuple):
    """A geometric mean over the rounds, and its interval; None where there is one round."""

    value: float
    low: float | None
    high: float | None
    rounds: int


def ratio(first: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Ratio:
    """Return the seconds of the first side over those of the other, which are given by round and turn."""
    logs = [fmean(map(math.log, a)) - fmean(map(math.log, b)) for a, b in zip(first, other, strict=True)]
    middle, number = fmean(logs), len(logs)
    if number < 2:
        return Ratio(math.exp(middle), None, None, number)
    from scipy.special import stdtrit  # here: whoever draws no ratio need not wait for it

    half = float(stdtrit(number - 1, 0.975)) * stdev(logs) / math.sqrt(number)
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), number)
