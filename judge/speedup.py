"""How much faster is an optimizer than the baseline? Three rules, three axes, and words for what they allow.

    matched   T_base(L_new(T)) / T   the baseline length that would reach the newcomer's final loss, from a
                                     ladder of baseline lengths, each run decayed over its own: the verdict
    soap      T / T_new(L_base(T))   the newcomer's length that reaches the baseline's final loss, from a
                                     ladder of its own: SOAP's own figure (40 % fewer steps is 1.67)
    target    the first crossing of a loss inside one schedule, between evaluations: shown, never decides

Each in steps, FLOPs and seconds. A ladder gives a number of steps; what they cost is each arm's own measured
cost per step: `matched` in FLOPs is the cost of the baseline's run of the matched length over the newcomer's.

Verdicts, where no claim was made beforehand, by the 95 % interval:

    faster               all of it lies above 1
    slower               all of it lies below 1
    no difference seen   it holds 1 and stays within .8 to 1.25: nothing of practical size was missed
    underpowered         it holds 1 and reaches further, or there is none for want of three seeds; or the runs
                         are too small to decide anything, whatever it holds
    diverged             a run of either arm diverged: what the lucky ones reached is shown, decides nothing
    None                 by `target`; in seconds on a CPU (others may share it) or on unlike hardware; unknown
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.arms import Arm
from judge.curve import crossing, mean_curve
from judge.ladder import RUNGS, SEEDS, Censored, Ladder, Speedup, half_width
from judge.records import Run
from judge.timing import unsteady, untimed

SMALL = 1.25  # the largest ratio, either way, that "no difference seen" can have missed
UNKNOWN = Speedup(None)
# What a verdict takes. With fewer updates at T, averages of curvature never warm up. With more epochs in the longest
# run, the optimizers are held against each other on learning by heart: up to about four epochs a repeated token is
# nearly as good as a fresh one (Muennighoff et al., 2023).
FEWEST_UPDATES = 2000
MOST_EPOCHS = 4


@dataclass(frozen=True)
class Row:
    """One speed-up, and what may be said of it."""

    optimizer: str
    rule: str
    axis: str
    speedup: Speedup
    seeds: int  # the fewest at any length that entered
    verdict: str | None
    length: int | None  # T, in updates
    arm: str
    notes: tuple[str, ...]
    decides: bool = True  # whether the runs are such that a verdict may be read off the interval

    def json(self) -> dict[str, Any]:
        """Flat, with the numbers as `Speedup` documents them."""
        ratio = self.speedup
        return {
            **{"optimizer": self.optimizer, "rule": self.rule, "axis": self.axis},
            **{"speedup": ratio.value, "low": ratio.low, "high": ratio.high, "censored": ratio.censored},
            **{"seeds": self.seeds, "verdict": self.verdict, "length": self.length, "arm": self.arm},
            "notes": list(self.notes),
        }


def ladder_of(arm: Arm) -> Ladder:
    return Ladder({length: arm.losses(length).tolist() for length in arm.lengths})


def matched_length(baseline: Arm, newcomer: Arm) -> int | None:
    """T for `matched`: the newcomer's longest length below the top of the ladder, so that a gain can show."""
    below = [length for length in newcomer.lengths if length < max(baseline.lengths, default=0)]
    return max(below or newcomer.lengths, default=None)


def soap_length(baseline: Arm, newcomer: Arm) -> int | None:
    """T for `soap`: the baseline's shortest length that covers the newcomer's ladder, or else its longest."""
    covering = [length for length in baseline.lengths if length >= max(newcomer.lengths, default=0)]
    return min(covering) if covering else max(baseline.lengths, default=None)


def matched(baseline: Arm, newcomer: Arm, length: int | None = None, guarded: bool = True) -> list[Row]:
    """A row for each axis.

    length: T in updates, where a claim has fixed it; None: `matched_length`.
    guarded: runs that are `too_small` decide nothing. A paper's own protocol is exempt.
    """
    blank = _blank("matched", baseline, newcomer, length or matched_length(baseline, newcomer))
    return _by_ladder(blank, baseline, newcomer, guarded)


def soap(baseline: Arm, newcomer: Arm, length: int | None = None, guarded: bool = True) -> list[Row]:
    """A row for each axis; without a ladder of the newcomer's it would only repeat `matched`."""
    blank = _blank("soap", baseline, newcomer, length or soap_length(baseline, newcomer))
    if len(newcomer.lengths) < RUNGS:
        count = len(newcomer.lengths)
        return _unknown(blank, f"needs a ladder of {newcomer.label}: {RUNGS} lengths or more, not {count}")
    return _by_ladder(blank, ladder=newcomer, point=baseline, guarded=guarded)


RULES = {rule.__name__: rule for rule in (matched, soap)}  # those that can decide


def _by_ladder(blank: Row, ladder: Arm, point: Arm, guarded: bool) -> list[Row]:
    """`point` ran for T updates: how many times its cost would `ladder` need for the same loss?"""
    length = blank.length
    if length not in point.lengths or not ladder.lengths:
        return _unknown(blank, f"no finished run of {(ladder if length in point.lengths else point).label}")
    rungs = ladder_of(ladder)
    steps = rungs.reach(point.losses(length).tolist(), length)
    ladder_runs = [run for rung in ladder.lengths for run in ladder.finished(rung)]
    blank = replace(blank, seeds=int(min(len(point.losses(length)), *rungs.counts)))
    if len(rungs.lengths) < RUNGS:
        lengths = f"{RUNGS} lengths or more around {length} updates, not {len(rungs.lengths)}"
        blank = _noted(blank, f"needs a ladder of {ladder.label}: {lengths}; so far it says above or below")
    elif not rungs.falls:
        blank = _noted(blank, f"the loss of {ladder.label} does not fall with length: no length fits a loss")
    if blank.seeds < SEEDS:
        blank = _noted(blank, f"needs {SEEDS} seeds at every length for an interval, not {blank.seeds}")
    small = too_small(length, ladder_runs + point.finished(length)) if guarded else None
    if small:
        blank = replace(_noted(blank, small), decides=False)

    rows = []
    for axis, key in AXES.items():
        row = replace(blank, axis=axis)
        cost = _cost_per_step(ladder_runs, point.finished(length), key)
        if cost is None:
            rows += _unknown(row, f"no figure in {TITLE[axis]}: some run does not know them")
            continue
        ratio = steps.times(*cost)
        if ladder.optimizer == row.optimizer:  # it gave the newcomer's cost over the baseline's
            ratio = ratio.inverse()
        if axis == "seconds" and (reason := untimed(ladder_runs + point.finished(length))):
            row = _noted(replace(row, verdict=None, decides=False), reason)
            rough = Speedup(ratio.value, censored=ratio.censored)
            rows += _unknown(row, why) if (why := unsteady([ladder, point])) else [replace(row, speedup=rough)]
        else:
            rows.append(replace(row, speedup=ratio, verdict=row.verdict or verdict_on(ratio, not small)))
    return rows


def target(baseline: Arm, newcomer: Arm, length: int | None, loss: float) -> list[Row]:
    """A row for each axis: the cost of the baseline's mean curve, up to a loss, over that of the newcomer's.

    Both at one length, for a crossing depends on the schedule. An arm that never got there censors the ratio.
    """
    blank = _blank("target", baseline, newcomer, length)
    if length not in baseline.lengths or length not in newcomer.lengths:
        return _unknown(blank, f"not both finished at {length} updates")
    crossed = baseline.finished(length) + newcomer.finished(length)
    curves = {arm.label: mean_curve(arm.finished(length)) for arm in (baseline, newcomer)}
    reached = {label: crossing(curve, loss) for label, curve in curves.items()}
    blank = replace(blank, seeds=min(len(arm.losses(length)) for arm in (baseline, newcomer)))
    missed = [label for label, point in reached.items() if point is None]
    for label in missed:
        blank = _noted(blank, f"{label} never reached {loss:.4f}")
    if len(missed) == 2:
        return _unknown(blank, "so that there is nothing to compare")

    # Who never got there needs more than its whole run.
    censored: Censored = None
    if missed:
        censored = "above" if missed == [baseline.label] else "below"
    theirs, ours = (reached[arm.label] or curves[arm.label][-1] for arm in (baseline, newcomer))
    rows = []
    for axis in AXES:
        row, costs = replace(blank, axis=axis), (getattr(theirs, axis), getattr(ours, axis))
        if axis == "seconds" and untimed(crossed) and (why := unsteady([baseline, newcomer])):
            rows += _unknown(row, why)
        elif all(costs):
            rows.append(replace(row, speedup=Speedup(costs[0] / costs[1], censored=censored)))
        else:
            rows += _unknown(row, f"no figure in {TITLE[axis]}: some run does not know them")
    return rows


def verdict_on(ratio: Speedup, decisive: bool = True) -> str | None:
    """What the interval of a speed-up says, in the words that this file opens with.

    decisive: whether the runs are of a size that decides anything.
    """
    low, high = ratio.low, ratio.high
    if not decisive and ratio != UNKNOWN:
        return "underpowered"
    if low is not None and low >= 1:
        return "faster"
    if high is not None and high <= 1:
        return "slower"
    if low is not None and high is not None and low >= 1 / SMALL and high <= SMALL:
        return "no difference seen"
    return None if ratio == UNKNOWN else "underpowered"


def too_small(length: int, runs: Sequence[Run]) -> str | None:
    """Why the losses of these runs decide nothing at T = length updates; None if they may.

    A run that does not know its tokens per update or the size of its training split is taken on trust.
    """
    reasons = []
    if length < FEWEST_UPDATES:
        reasons.append(f"at least {FEWEST_UPDATES:,} updates, not {length:,}")
    epochs = max((epochs_of(run) or 0.0 for run in runs), default=0.0)
    if epochs > MOST_EPOCHS:
        reasons.append(f"at most {MOST_EPOCHS} epochs of the training split in the longest run, not {epochs:.4g}")
    return f"runs too small for a verdict, which takes {', and '.join(reasons)}" if reasons else None


def epochs_of(run: Run) -> float | None:
    """How often the whole run goes through its training split; None if the manifest does not tell."""
    per_step, split = run.known("tokens_per_step"), run.known("data", "train_tokens")
    return run.steps * per_step / split if per_step and split else None


def _cost_per_step(ladder: Sequence[Run], point: Sequence[Run], key: str) -> tuple[float, float] | None:
    """The ladder's cost per step over the point's, and its interval's half-width on the log scale."""
    if key == "step":
        return 1.0, 0.0
    logs = []
    for runs in (ladder, point):
        costs = [run.last(key) for run in runs]
        if not all(costs):
            return None
        logs.append(np.log([cost / run.step for cost, run in zip(costs, runs, strict=True)]))
    blur = 0.0
    if min(map(len, logs)) > 1:  # else there is no interval to be widened
        variances = tuple(float(each.var(ddof=1)) / len(each) for each in logs)
        blur = half_width((variances[0], variances[1]), (len(logs[0]) - 1, len(logs[1]) - 1))
    return math.exp(logs[0].mean() - logs[1].mean()), blur


def _blank(rule: str, baseline: Arm, newcomer: Arm, length: int | None) -> Row:
    """A row that knows nothing yet but whether something diverged."""
    row = Row(newcomer.optimizer, rule, "", UNKNOWN, 0, None, length, newcomer.label, ())
    diverged = [run for arm in (baseline, newcomer) for run in arm.runs if run.status == "diverged"]
    if not diverged:
        return row
    row = _noted(row, f"{len(diverged)} of these runs diverged: the others alone decide nothing")
    return row if rule == "target" else replace(row, verdict="diverged", decides=False)


def _noted(row: Row, note: str) -> Row:
    return replace(row, notes=(*row.notes, note))


def _unknown(row: Row, why: str) -> list[Row]:
    """The row of an axis, or of every axis, with no number in it."""
    return [_noted(replace(row, axis=axis), why) for axis in ([row.axis] if row.axis else AXES)]
