"""One speed-up of an optimizer over another on one axis, and the verdict that it allows.

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
from judge.arms import MOST_DIVERGED, Arm, often
from judge.estimate import Speedup
from judge.records import Run
from judge.spread import CONFIDENCE, half_width
from judge.timing import uneven, unsteady, untimed

SMALL = 1.25  # the largest ratio, either way, that "no difference seen" can have missed
BY_LITTLE = f", by less than {SMALL}"  # ends a verdict whose whole interval is that close to 1
UNKNOWN = Speedup(None)
TOO_SMALL = "runs too small"  # begins the sentence on what a verdict takes
# What a verdict takes. With fewer updates at T, averages of curvature never warm up. With more epochs in the longest
# run, the optimizers are held against each other on learning by heart: up to about four epochs a repeated token is
# nearly as good as a fresh one (Muennighoff et al., 2023).
FEWEST_UPDATES = 2000
MOST_EPOCHS = 4
# On 32,768 validation tokens a difference of two optimizers changes by .0065 nats from one choice of windows to
# another, as much as the error of three seeds. No interval knows that, and on fewer tokens it would decide.
FEWEST_EVALUATED = 32_768


@dataclass(frozen=True)
class Row:
    """One speed-up on one axis, and the verdict that it allows."""

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
    survives: bool | None = None  # Holm's correction for all comparisons of a page; None: none was made

    @property
    def words(self) -> str:
        """Return the verdict, with a dagger where it does not survive; empty without one."""
        return (self.verdict or "") + " †" * (self.survives is False)

    def json(self) -> dict[str, Any]:
        """Return it as a flat mapping, with the numbers as `Speedup` documents them."""
        ratio = self.speedup
        return {
            **{"optimizer": self.optimizer, "rule": self.rule, "axis": self.axis},
            **{"speedup": ratio.value, "low": ratio.low, "high": ratio.high, "censored": ratio.censored},
            **{"seeds": self.seeds, "verdict": self.verdict, "length": self.length, "arm": self.arm},
            "survives": self.survives,
            "notes": list(self.notes),
        }


def on_axes(
    row: Row,
    steps: Speedup,
    ladder: Arm,
    point: Arm,
    lengths: tuple[Sequence[int], Sequence[int]],
    confidence: float = CONFIDENCE,
) -> list[Row]:
    """Return a row for each axis, from how many times the point's updates the ladder needs.

    What an update costs is each arm's own, measured in its runs of these lengths (the ladder's, the point's).
    """
    ladder_runs, point_runs = (
        [run for length in own for run in arm.finished(length)]
        for arm, own in zip((ladder, point), lengths, strict=True)
    )
    rows = []
    for axis, key in AXES.items():
        each = replace(row, axis=axis)
        cost = _cost_per_step(ladder_runs, point_runs, key, confidence)
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
            continue
        if axis == "seconds" and (why := uneven([ladder, point])):
            each = noted(each, why)
        rows.append(replace(each, speedup=ratio, verdict=each.verdict or verdict_on(ratio, row.decides)))
    return rows


def verdict_on(ratio: Speedup, decisive: bool = True) -> str | None:
    """Return what the interval of a speed-up says, in the words of judge/speedup.py.

    decisive: whether the runs are of a size that decides anything.
    """
    low, high = ratio.low, ratio.high
    if not decisive and ratio != UNKNOWN:
        return "underpowered"
    if low is not None and low >= 1:
        return "faster" + BY_LITTLE * (high is not None and high <= SMALL)
    if high is not None and high <= 1:
        return "slower" + BY_LITTLE * (low is not None and low >= 1 / SMALL)
    if low is not None and high is not None and low >= 1 / SMALL and high <= SMALL:
        return "no difference seen"
    return None if ratio == UNKNOWN else "underpowered"


def too_small(length: int, runs: Sequence[Run]) -> str | None:
    """Return why the losses of these runs decide nothing at T = length updates; None if they may.

    A run that does not know its tokens per update, or the size of its splits, is taken on trust.
    """
    reasons = []
    if length < FEWEST_UPDATES:
        reasons.append(f"at least {FEWEST_UPDATES:,} updates, not {length:,}")
    epochs = max((epochs_of(run) or 0.0 for run in runs), default=0.0)
    if epochs > MOST_EPOCHS:
        reasons.append(f"at most {MOST_EPOCHS} epochs of the training split in the longest run, not {epochs:.4g}")
    evaluated = min((tokens for run in runs if (tokens := evaluated_on(run))), default=math.inf)
    if evaluated < FEWEST_EVALUATED:
        reasons.append(f"evaluations on {FEWEST_EVALUATED:,} tokens or more, not {evaluated:,}")
    return f"{TOO_SMALL} for a verdict, which takes {', and '.join(reasons)}" if reasons else None


def evaluated_on(run: Run) -> int | None:
    """Return how many validation tokens each evaluation reads; None if the run does not tell."""
    section = run.config.get("eval")
    if not isinstance(section, dict) or "tokens" not in section:
        return None
    tokens = section["tokens"] or run.known("data", "val_tokens")
    return tokens if isinstance(tokens, int) else None


def epochs_of(run: Run) -> float | None:
    """Return how often the whole run goes through its training split; None if the manifest does not tell."""
    per_step, split = run.known("tokens_per_step"), run.known("data", "train_tokens")
    return run.steps * per_step / split if per_step and split else None


def _cost_per_step(
    ladder: Sequence[Run], point: Sequence[Run], key: str, confidence: float
) -> tuple[float, float | None] | None:
    """Return the ladder's cost per step over the point's, and its interval's half-width on the log scale.

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
        blur = half_width((variances[0], variances[1]), (len(logs[0]) - 1, len(logs[1]) - 1), confidence)
    return math.exp(logs[0].mean() - logs[1].mean()), blur


def blank(rule: str, baseline: Arm, newcomer: Arm, length: int | None) -> Row:
    """Return a row that knows nothing yet but whether something diverged.

    Up to one run in twenty of each arm may: the others decide, and the row says so.
    """
    row = Row(newcomer.optimizer, rule, "", UNKNOWN, 0, None, length, newcomer.label, ())
    for arm in (baseline, newcomer):
        diverged = sum(run.status == "diverged" for run in arm.runs)
        finished = sum(run.final_loss is not None for run in arm.runs)
        runs = f"{diverged} of the {diverged + finished} runs of {arm.label} diverged"
        if often(diverged, finished):
            row = noted(row, f"{runs}: the others alone decide nothing")
            row = row if rule == "target" else replace(row, verdict="diverged", decides=False)
        elif diverged:
            row = noted(row, f"{runs}, at most {100 * MOST_DIVERGED:g} %: the others decide without it")
    return row


def noted(row: Row, note: str) -> Row:
    """Return the row with one more note."""
    return replace(row, notes=(*row.notes, note))


def unknown(row: Row, why: str) -> list[Row]:
    """Return the row of an axis, or of every axis, with no number in it."""
    return [noted(replace(row, axis=axis), why) for axis in ([row.axis] if row.axis else AXES)]
