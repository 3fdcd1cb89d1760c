"""Estimates how much of a speed-up is the luck of two tunings: the interval is at the settings that were found.

An optimizer's best of n random trials lies above what its best settings would reach, by more or less from one tuning to
another. Near an optimum the lowest losses scatter as the best one itself does from tuning to tuning, whatever the
number of keys (they are the first of a Poisson process whose rate is a power of the distance), so that the standard
deviation of the best three trials estimates it. Student's t at two degrees of freedom each then covers 96 to 98 % of
differences between two tunings of 8 to 32 trials over one to four keys that have equal optima (tests/test_luck.py).
"""

import math
from collections.abc import Sequence

import numpy as np

from judge.arms import Arm
from judge.speedup import ladder_of
from judge.spread import half_width

BEST = 3  # trials

Losses = Sequence[float | None]  # of trials, the lowest first; None without one


def luck(own: Losses, other: Losses) -> float | None:
    """Return half the 95 % interval of the difference that two tunings make, nats; None below three trials each."""
    variances = []
    for losses in (own, other):
        best = [loss for loss in losses if loss is not None][:BEST]
        if len(best) < BEST:
            return None
        variances.append(float(np.var(best, ddof=1)))
    return half_width(variances, [BEST - 1.0] * 2)


def beside(own: Losses, other: Losses, base: Arm, length: int | None, label: str) -> str:
    """Return a sentence on the luck of both tunings as a factor of the speed-up; empty where it is not known.

    base: the baseline's arm, whose law turns nats into length. label: the newcomer's.
    """
    wide = luck(own, other)
    if wide is None or length is None or not base.lengths:
        return ""
    law = ladder_of(base).law
    if law is None:
        return f"tuning luck of {label}: another tuning may move the difference in loss by {wide:.2g} nats (95 %)"
    factor = math.exp(min(wide / law.slope(length)[0], 5.0))
    return (
        f"tuning luck of {label}: its interval is at these settings; another tuning of both, by as many trials, may "
        f"move the speed-up in steps by a factor of up to {factor:.2f} (95 %, by the best {BEST} trials of each)"
    )
