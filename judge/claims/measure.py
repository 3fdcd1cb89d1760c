"""The numbers that a claim's statements are about, each with its 95 % interval: of arms, at T, over seeds.

    speedup      of an arm over another, by a rule of judge.speedup, in steps, FLOPs and seconds
    value        of a quantity: Student's t over seeds
    difference   arm - against of a quantity: Welch's t
    ratio        arm / against of a quantity: Welch's t on the logarithms

A quantity of one step (FLOPs, seconds) may be measured on runs of any length; one that tells how well an arm learns
may not, unless they are a paper's own protocol: then they are of the size that the claim was made of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from judge.arms import MOST_DIVERGED, Arm, often
from judge.claims.claim import Quantity
from judge.claims.statement import Statement
from judge.downstream import PREFIX, alike
from judge.estimate import Speedup
from judge.records import Run
from judge.row import UNKNOWN, too_small
from judge.speedup import RULES
from judge.spread import CONFIDENCE, SEEDS, half_width
from judge.timing import unsteady, untimed
from judge.windows import sampling


@dataclass(frozen=True)
class Measured:
    """An estimate; `decides` tells whether its interval may be held against a claim."""

    estimate: Speedup
    seeds: int = 0
    decides: bool = False
    notes: tuple[str, ...] = ()

    def than(self, other: "Measured", difference: bool) -> "Measured":
        """Divide by another, independent estimate, or subtract it: the half-widths add in quadrature.

        An end of the other's interval that lies beyond its ladder leaves no interval.
        """
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        base, seeds = other.estimate, min(self.seeds, other.seeds)
        if base.value is None or base.censored or self.estimate.value is None or not (difference or base.value):
            return Measured(UNKNOWN, seeds, False, (*notes, "no figure: what it is held against is not known"))
        if difference:
            value, ends = self.estimate.value - base.value, [self.estimate.low, self.estimate.high, base.low, base.high]
            if None in ends:
                return Measured(Speedup(value), seeds, False, notes)
            low, high, base_low, base_high = (float(end or 0.0) for end in ends)
            wide = math.hypot((high - low) / 2, (base_high - base_low) / 2)
            return Measured(Speedup(value, value - wide, value + wide), seeds, self.decides and other.decides, notes)
        if base.low is None or base.high is None:
            ratio = Speedup(self.estimate.value / base.value, censored=self.estimate.censored)
            return Measured(ratio, seeds, False, (*notes, "no interval: that of what it is divided by is open"))
        blur = max(math.log(base.high / base.value), math.log(base.value / base.low))
        return Measured(self.estimate.times(1 / base.value, blur), seeds, self.decides and other.decides, notes)


@dataclass(frozen=True)
class Trained:
    """An arm's runs, and its T in updates."""

    arm: Arm
    length: int

    @property
    def finished(self) -> list[Run]:
        return self.arm.finished(self.length)


def values(quantity: Quantity, runs: Sequence[Run]) -> np.ndarray | None:
    """Return one value for each run, in the quantity's unit; None where one does not know it, or scores are unlike."""
    if not _alike(quantity, runs):
        return None
    numbers = [run.last(quantity.metric) for run in runs]
    if not numbers or any(value is None for value in numbers):
        return None
    each = np.array(numbers, dtype=float)
    if quantity.per_step:
        each = each / np.array([run.step for run in runs])
    return quantity.scale * (np.exp(each) if quantity.exponential else each)


def _alike(quantity: Quantity, runs: Sequence[Run]) -> bool:
    """Say whether runs may be compared in a quantity: downstream scores must have been made in one way."""
    return not quantity.metric.startswith(PREFIX) or alike([run.scores for run in runs], quantity.metric)


def measure(
    statement: Statement, quantity: Quantity | None, arm: Trained, against: Trained | None, guarded: bool
) -> dict[str, Measured]:
    """Measure a statement's number, by axis; a quantity has the one axis "". guarded: small runs decide nothing."""
    if quantity is None:
        assert against is not None
        rows = RULES[statement.rule](against.arm, arm.arm, arm.length, guarded)
        return {row.axis: Measured(row.speedup, row.seeds, row.decides, row.notes) for row in rows}
    pair = [each for each in (arm, against) if each]
    runs = [run for each in pair for run in each.finished]
    if not _alike(quantity, runs):
        return {"": Measured(UNKNOWN, notes=(f"no {quantity.title}: the runs were scored in different ways",))}
    samples = [values(quantity, each.finished) for each in pair]
    for each, sample in zip(pair, samples, strict=True):
        if sample is None:
            lacking = "some run does not know it" if each.finished else "no finished run"
            return {"": Measured(UNKNOWN, notes=(f"no {quantity.title} of {each.arm.label}: {lacking}",))}
    seeds = min(len(each.finished) for each in pair)
    terms: list[tuple[float, int]] = []  # by the choice of the validation windows
    if against and quantity.metric == "val/loss" and (statement.measure == "ratio") == quantity.exponential:
        ours, theirs = (each.arm.sample(each.length).parts for each in (arm, against))
        size = 1.0 if quantity.exponential else quantity.scale**2
        terms = [(size * variance, freedom) for variance, freedom in sampling(np.ones(1), [ours], theirs)]
    estimate = _interval(statement.measure, [sample for sample in samples if sample is not None], terms)
    notes, rare = list[str](), list[str]()
    if seeds < SEEDS:
        notes.append(f"needs {SEEDS} seeds for an interval, not {seeds}")
    for each in pair:
        diverged, finished = len(each.arm.diverged(each.length)), len(each.finished)
        lost = f"{diverged} of {diverged + finished} runs of {each.arm.label} diverged"
        if often(diverged, finished):
            notes.append(f"{lost}: the others alone decide nothing")
        elif diverged:
            rare.append(f"{lost}, at most {100 * MOST_DIVERGED:g} %: the others decide without it")
    if guarded and not quantity.per_step and (small := too_small(max(each.length for each in pair), runs)):
        notes.append(small)
    if quantity.metric.startswith("seconds/") and (reason := untimed(runs)):
        notes.append(reason)
        estimate = Speedup(estimate.value)
        if why := unsteady([each.arm for each in pair]):
            estimate = UNKNOWN
            notes.append(why)
    return {"": Measured(estimate, seeds, not notes, (*notes, *rare))}


def _interval(kind: str, samples: Sequence[np.ndarray], terms: Sequence[tuple[float, int]]) -> Speedup:
    """Estimate one sample's mean, or the difference or ratio of two means; without an interval below three seeds."""
    if kind == "ratio":
        if min(sample.min() for sample in samples) <= 0:
            means = [float(sample.mean()) for sample in samples]
            return Speedup(means[0] / means[1]) if means[1] else UNKNOWN
        samples = [np.log(sample) for sample in samples]
    center = float(samples[0].mean()) - (float(samples[1].mean()) if len(samples) > 1 else 0.0)
    wide = None if min(map(len, samples)) < SEEDS else _half_width(samples, terms)
    ends = (center, None, None) if wide is None else (center, center - wide, center + wide)
    value, low, high = (end if end is None or kind != "ratio" else math.exp(end) for end in ends)
    return Speedup(value, low, high)


def _half_width(samples: Sequence[np.ndarray], terms: Sequence[tuple[float, int]]) -> float:
    variances = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    freedoms = [len(sample) - 1 for sample in samples]
    if len(samples) == 1:
        return float(stdtrit(freedoms[0], (1 + CONFIDENCE) / 2)) * math.sqrt(variances[0])
    return half_width([*variances, *(each for each, _ in terms)], [*freedoms, *(freedom for _, freedom in terms)])
