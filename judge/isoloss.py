"""The rule for studies in which everyone stops at one loss, as in modded-nanogpt's track 3.

    isoloss   T_base / T_new * exp((L_base - L_new) / g)

Both arms, each decayed over its own length, ended within .01 nats of one loss. The rest of the difference is turned
into length by a slope g = -dL / d ln T, from the baseline's ladder or declared, which is known within a factor only.

The interval is a test turned around. For a true log ratio y (beyond ln T_base / T_new) the losses differ by y g plus
noise, and g is anywhere between its bounds: y stays in the interval if the measured difference lies no further than c
standard errors outside what those bounds allow. c is that of Imbens and Manski (2004, equation 6): 1.96 where the
bounds are close together, 1.64 where they are far apart, so that the interval covers the truth in 95 % of studies
even if the slope is the worst one allowed, and in more if it is not.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

from judge.arms import Arm
from judge.contrast import Contrast, Losses, paired_by_seed, sample_of
from judge.declared import NOTHING, Declared, Sigma, Slope
from judge.estimate import Speedup
from judge.ladder import Ladder
from judge.row import Row, blank, noted, on_axes, too_small, unknown
from judge.spread import CONFIDENCE, SEEDS, known_spread

LEAST = 1.2  # a law is only nearly right: no slope is known better than within this factor


def isoloss(
    baseline: Arm,
    newcomer: Arm,
    length: int | None = None,
    guarded: bool = True,
    declared: Declared = NOTHING,
    confidence: float = CONFIDENCE,
) -> list[Row]:
    """Return a row for each axis.

    length: the newcomer's T in updates, where a claim has fixed it; None: each arm's length that ends nearest the loss,
    of those with three seeds where one of these ends near enough.
    guarded: runs that are `too_small` decide nothing.
    """
    row = blank("isoloss", baseline, newcomer, length)
    if not baseline.lengths or (length not in newcomer.lengths if length else not newcomer.lengths):
        return unknown(row, f"no finished run of {newcomer.label if baseline.lengths else baseline.label}")
    own, other = _nearest(baseline, newcomer, baseline.seeded, [length] if length else newcomer.seeded, declared)
    if _distance(baseline, newcomer, (own, other), declared) > declared.within:
        own, other = _nearest(baseline, newcomer, baseline.lengths, [length] if length else newcomer.lengths, declared)
    row = replace(row, length=other)
    if (far := _distance(baseline, newcomer, (own, other), declared)) > declared.within:
        goal = f"{declared.loss:.4f}" if declared.loss is not None else f"the other's {newcomer.mean_loss(other):.4f}"
        return unknown(
            row, f"ended {far:.4f} from {goal}: isoloss takes arms that ended within {declared.within:g} nats"
        )
    slope = declared.slope or _own_slope(baseline, own, declared)
    if slope is None:
        return unknown(row, f"needs a slope: a ladder of {baseline.label} at three lengths, or one that is declared")

    samples = baseline.sample(own), newcomer.sample(other)
    cells = [each.losses for each in samples]
    row = noted(replace(row, seeds=min(map(len, cells))), f"a difference in loss is worth {slope}")
    if row.seeds < SEEDS:
        declaration = f"sigma of arms with fewer than {SEEDS} seeds: {declared.sigma}" if declared.sigma else None
        row = noted(row, declaration or f"needs {SEEDS} seeds for an interval, or a declared sigma, not {row.seeds}")
    contrast = Contrast([samples[0]], samples[1], declared.sigma)
    if (correlation := contrast.correlation(np.ones(1), confidence)) is not None:
        row = noted(row, paired_by_seed(row.arm, correlation))
    steps = at_one_loss((own, samples[0]), (other, samples[1]), slope, declared.sigma, confidence)
    small = too_small(other, baseline.finished(own) + newcomer.finished(other)) if guarded else None
    if small:
        row = replace(noted(row, small), decides=False)
    return on_axes(row, steps, baseline, newcomer, ([own], [other]), confidence)


def _nearest(
    baseline: Arm, newcomer: Arm, lengths: Sequence[int], others: Sequence[int], declared: Declared
) -> tuple[int, int]:
    """Return the two of these lengths that ended nearest the loss; of equally near ones the longest."""
    pairs = product(lengths, others)
    return min(pairs, key=lambda pair: (_distance(baseline, newcomer, pair, declared), -pair[0], -pair[1]))


def at_one_loss(
    own: tuple[float, Losses],
    other: tuple[float, Losses],
    slope: Slope,
    sigma: Sigma | None = None,
    confidence: float = CONFIDENCE,
) -> Speedup:
    """Return the speed-up between two ends near one loss, each (length, losses over seeds).

    sigma: declared for an end with fewer than three seeds; without it there is no interval.
    """
    least, greatest = slope.bounds
    ours, theirs = sample_of(own[1]), sample_of(other[1])
    ratio, difference = own[0] / other[0], float(ours.losses.mean() - theirs.losses.mean())
    value = ratio * math.exp(difference / math.sqrt(least * greatest))
    contrast, one = Contrast([ours], theirs, sigma), np.ones(1)
    if contrast.spread is None or contrast.its is None:
        return Speedup(value)
    variance, freedom = contrast.error(one, contrast.correlation(one, confidence) is not None)
    low, high = log_interval(difference, math.sqrt(variance), freedom, (least, greatest), confidence)
    return Speedup(value, ratio * math.exp(low), ratio * math.exp(high))


def _distance(baseline: Arm, newcomer: Arm, lengths: tuple[int, int], declared: Declared) -> float:
    """Return how far from the declared loss the worse of two arms ended; without one, how far from each other."""
    ends = float(baseline.losses(lengths[0]).mean()), float(newcomer.losses(lengths[1]).mean())
    if declared.loss is None:
        return abs(ends[0] - ends[1])
    return max(abs(end - declared.loss) for end in ends)


def _own_slope(arm: Arm, length: int, declared: Declared) -> Slope | None:
    """Return the slope of an arm's own law at a length; None without a law."""
    ladder = Ladder({each: arm.sample(each) for each in arm.lengths}, arm.warmup)
    if ladder.law is None:
        return None
    slope, error = ladder.law.slope(length)
    spread = known_spread(ladder.cells, declared.sigma)
    wide = math.exp(float(stdtrit(spread.freedom, 0.975)) * error * spread.value / slope) if spread else LEAST
    return Slope(slope * math.log(2), max(LEAST, wide), f"the law of {arm.label}")


def log_interval(
    difference: float, error: float, freedom: float, slopes: tuple[float, float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of y, where a difference in loss is y g plus noise, and g is between two slopes.

    difference: of the mean losses, nats, with its standard error and degrees of freedom. slopes: nats for an e-fold.
    """
    least, greatest = slopes

    def critical(gap: float) -> float:
        """Return the c of Imbens and Manski, where the bounds lie `gap` standard errors apart."""
        ends = float(stdtrit(freedom, confidence)), float(stdtrit(freedom, (1 + confidence) / 2))

        def excess(c: float) -> float:
            return float(stdtr(freedom, c + gap) - stdtr(freedom, -c)) - confidence

        return ends[0] if excess(ends[0]) >= 0 else float(brentq(excess, *ends, xtol=1e-9))

    def end(side: int) -> float:
        """Return the y whose least gain lies as far above the difference as noise explains, for side 1.

        For side -1 it is the y whose greatest gain lies as far below.
        """

        def excess(y: float) -> float:
            nearest = min((y * least, y * greatest), key=lambda expected: side * expected)
            return side * (nearest - difference) - critical(abs(y) * (greatest - least) / error) * error

        reach = side * (abs(difference) + 10 * error * max(1.0, float(stdtrit(freedom, (1 + confidence) / 2)))) / least
        return float(brentq(excess, -reach, reach, xtol=1e-12))

    return end(-1), end(1)
