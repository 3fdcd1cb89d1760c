"""One speed-up of an optimizer over another on one axis, and what may be said of it.

What every rule shares is here: a row that knows nothing yet, the step from a ratio of updates to one of FLOPs and
seconds, the verdict that an interval allows, and which runs are too small for any.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.arms import Arm
from judge.ladder import Speedup, half_width
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


def on_axes(
    row: Row, steps: Speedup, ladder: Arm, point: Arm, lengths: tuple[Sequence[int], Sequence[int]]
) -> list[Row]:
    """A row for each axis, from how many times the point's updates the ladder needs.

    What an update costs is each arm's own, measured in its runs of these lengths (the ladder's, the point's).
    """
    ladder_runs, point_runs = (
        [run for length in own for run in arm.finished(length)]
        for arm, own in zip((ladder, point), lengths, strict=True)
    )
    rows = []
    for axis, key in AXES.items():
        each = replace(row, axis=axis)
        cost = _cost_per_step(ladder_runs, point_runs, key)
        if cost is None:
            rows += unknown(each, f"no figure in {TITLE[axis]}: some run does not know them")
            continue
        factor, blur = cost
        known = steps if blur is not None else Speedup(steps.value, censored=steps.censored)
        ratio = known.times(factor, blur or 0.0)
        if ladder.optimizer == row.optimizer:  # it gave the newcomer's cost over the baseline's
            ratio = ratio.inverse()
        if axis == "seconds" and (reason := untimed(ladder_runs + point_runs)):
            each = noted(replace(each, verdict=None, decides=False), reason)
            rough = Speedup(ratio.value, censored=ratio.censored)
            rows += unknown(each, why) if (why := unsteady([ladder, point])) else [replace(each, speedup=rough)]
        else:
            rows.append(replace(each, speedup=ratio, verdict=each.verdict or verdict_on(ratio, row.decides)))
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


def _cost_per_step(ladder: Sequence[Run], point: Sequence[Run], key: str) -> tuple[float, float | None] | None:
    """The ladder's cost per step over the point's, and its interval's half-width on the log scale.

    The width is None where one run has to stand for all: what it took by the clock may be chance.
    """
    if key == "step":
        return 1.0, 0.0
    logs = []
    for runs in (ladder, point):
        costs = [run.last(key) for run in runs]
        if not all(costs):
            return None
        logs.append(np.log([cost / run.step for cost, run in zip(costs, runs, strict=True)]))
    blur = None if key == AXES["seconds"] else 0.0
    if min(map(len, logs)) > 1:
        variances = tuple(float(each.var(ddof=1)) / len(each) for each in logs)
        blur = half_width((variances[0], variances[1]), (len(logs[0]) - 1, len(logs[1]) - 1))
    return math.exp(logs[0].mean() - logs[1].mean()), blur


def blank(rule: str, baseline: Arm, newcomer: Arm, length: int | None) -> Row:
    """A row that knows nothing yet but whether something diverged."""
    row = Row(newcomer.optimizer, rule, "", UNKNOWN, 0, None, length, newcomer.label, ())
    diverged = [run for arm in (baseline, newcomer) for run in arm.runs if run.status == "diverged"]
    if not diverged:
        return row
    row = noted(row, f"{len(diverged)} of these runs diverged: the others alone decide nothing")
    return row if rule == "target" else replace(row, verdict="diverged", decides=False)


def noted(row: Row, note: str) -> Row:
    return replace(row, notes=(*row.notes, note))


def unknown(row: Row, why: str) -> list[Row]:
    """The row of an axis, or of every axis, with no number in it."""
    return [noted(replace(row, axis=axis), why) for axis in ([row.axis] if row.axis else AXES)]
