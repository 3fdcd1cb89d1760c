"""Everything that a table or a report says about a folder of runs: standings, speed-ups, warnings, footnotes.

comparison = compare(find_runs("results/runs/my_study"), baseline="adamw")
for row in comparison.rows:
    print(row.optimizer, row.rule, row.axis, row.speedup, row.verdict)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from judge import speedup
from judge.arms import (
    Arm,
    best_arm,
    common_length,
    find_arms,
    find_optimizer,
    group_arms,
    refuse_incomparable,
    tried,
)
from judge.correction import comparisons, corrected
from judge.curve import crossing, mean_curve, refuse_target
from judge.declared import NOTHING, Declared
from judge.fairness import UNEQUAL_TUNING, endings, provenance, unfair
from judge.records import Point, Run
from judge.row import Row
from judge.spread import CONFIDENCE, mean_and_deviation
from judge.timing import untimed

Rule = Callable[..., list[Row]]
CHOSEN = "chosen on the very seeds that are shown"


@dataclass(frozen=True)
class Standing:
    """The result of one optimizer, in the arm that stands for it, at the common length or the arm's nearest to that."""

    optimizer: str
    arm: Arm
    length: int | None  # updates; another than the comparison's where the arm has no finished run of that
    tried: int  # arms that it was chosen from
    seeds: int
    loss: float | None  # mean final validation loss over seeds, nats per token
    spread: float | None  # standard deviation of one run; None below two seeds
    reached: Point | None  # where its mean curve first came to the target; None if it never did
    rows: dict[str, Row]  # by axis, under the rule `target`; empty for the baseline


@dataclass(frozen=True)
class Comparison:
    runs: list[Run]
    arms: list[Arm]  # every one, also those that were not chosen
    baseline: str  # its name, or its whole class path
    length: int | None  # the common length T of the standings, in updates
    target: float | None  # validation loss; unless given, the baseline's final one at T
    standings: list[Standing]  # the baseline, then the others from the lowest loss up
    rows: list[Row]
    warnings: list[str]  # what makes the comparison unfair: to be read first
    footnotes: list[str]  # what to know about single runs

    def after(self, standing: Standing) -> str:
        """Write ` after 3,125 updates` of a standing at another length than the common one; otherwise empty."""
        return "" if standing.length in (self.length, None) else f" after {standing.length:,} updates"

    @property
    def notes(self) -> list[str]:
        """Return the notes on the figures that are shown, and on those of the rule that decides; then the footnotes."""
        rows = [row for row in self.rows if row.speedup.known or row.verdict or row.rule == "matched"]
        shown = [note for row in rows for note in row.notes]
        return list(dict.fromkeys([*shown, *self.footnotes]))


def compare(
    runs: Sequence[Run], baseline: str, target: float | None = None, declared: Declared = NOTHING
) -> Comparison:
    """Compare every other optimizer with the baseline, each in its best arm at the common length.

    baseline: an optimizer's name; of an external one the class path, or its label.
    target: validation loss for the rule `target`; None: the baseline's own final loss.
    declared: a sigma for arms of few seeds, and whether and with which slope the rule isoloss is asked.
    Raises ValueError if no run is the baseline's, or if the runs differ in model, data, context, batch or
    evaluation windows.
    """
    refuse_incomparable(runs)
    arms = group_arms(runs)
    baseline = find_optimizer(arms, baseline)
    length = common_length(arms, baseline)
    base = best_arm(find_arms(arms, baseline), length, ladder=True)
    names = sorted({arm.optimizer for arm in arms} - {baseline})
    newcomers = [best_arm(find_arms(arms, name), length) for name in names]
    if target is not None:
        refuse_target(target, mean_curve(base.finished(length)) if length in base.lengths else [])
    elif length in base.lengths:
        target = float(base.losses(length).mean())

    standings = [_standing(base, arms, length, target, [])]
    for arm in newcomers:
        crossed = [] if target is None else speedup.target(base, arm, length, target)
        standings.append(_standing(arm, arms, length, target, crossed))
    standings[1:] = sorted(standings[1:], key=lambda each: (each.loss is None, each.loss, each.optimizer))
    rows: list[Row] = []
    deciding, made = _deciding(base, [each.arm for each in standings[1:]], arms, declared)
    for each in standings[1:]:
        for rule in ("matched", "reverse", "isoloss"):
            rows += [row for row in deciding if (row.arm, row.rule) == (each.arm.label, rule)]
            rows += speedup.reverse(base, each.arm, declared=declared) if rule == "reverse" else []
        rows += each.rows.values()
    return Comparison(
        runs=list(runs),
        arms=arms,
        baseline=baseline,
        length=length,
        target=target,
        standings=standings,
        rows=rows,
        warnings=[warning for arm in newcomers for warning in _unfair(base, arm, arms, length)],
        footnotes=[*made, *_footnotes(runs, arms, [base, *newcomers], length)],
    )


def _deciding(
    base: Arm, newcomers: Sequence[Arm], arms: Sequence[Arm], declared: Declared
) -> tuple[list[Row], list[str]]:
    """Return the rows of the rules that decide, corrected for how many there are, and sentences on that number."""
    by_label = {arm.label: arm for arm in newcomers}
    settings = {arm.label: (tried(arms, arm.optimizer), tried(arms, base.optimizer)) for arm in newcomers}
    rows, made = [], []
    for rule in (speedup.matched, *([speedup.isoloss] if declared.isoloss else [])):

        @cache
        def at(label: str, confidence: float, rule: Rule = rule) -> list[Row]:
            return rule(base, by_label[label], declared=declared, confidence=confidence)

        own = corrected([row for label in by_label for row in at(label, CONFIDENCE)], settings, at)
        rows += own
        made += [sentence] if (sentence := comparisons(own, settings)) else []
    return rows, list(dict.fromkeys(made))


def _standing(arm: Arm, arms: Sequence[Arm], length: int | None, target: float | None, rows: Sequence[Row]) -> Standing:
    length = _own_length(arm, length)
    losses = np.array([]) if length is None else arm.losses(length)
    mean, spread = mean_and_deviation(losses)
    curve = mean_curve(arm.finished(length)) if length is not None else []
    return Standing(
        optimizer=arm.optimizer,
        arm=arm,
        length=length,
        tried=tried(arms, arm.optimizer),
        seeds=len(losses),
        loss=mean,
        spread=spread,
        reached=crossing(curve, target) if target is not None else None,
        rows={row.axis: row for row in rows},
    )


def _own_length(arm: Arm, length: int | None) -> int | None:
    """Return the arm's length nearest to this one, of those with three seeds or else the most that it has; or None."""
    if length is None:
        return length
    return min(arm.seeded, key=lambda own: abs(math.log(own / length)), default=None)


def _unfair(base: Arm, arm: Arm, arms: Sequence[Arm], length: int | None) -> Iterator[str]:
    """Yield sentences on what differs between two compared arms but should not."""
    yield from unfair(base, arm, length, _own_length(arm, length))
    settings = tried(arms, base.optimizer), tried(arms, arm.optimizer)
    if settings[0] != settings[1] and settings[1]:
        yield (
            f"{UNEQUAL_TUNING}{base.optimizer} is the best of {settings[0]} settings, {arm.optimizer} of {settings[1]}"
        )


def _footnotes(runs: Sequence[Run], arms: Sequence[Arm], compared: Sequence[Arm], length: int | None) -> Iterator[str]:
    counted = {run.folder for arm in arms for run in arm.runs}
    yield from endings(runs)
    for run in runs:
        if run.final_loss is not None and run.folder not in counted:
            yield f"{run.name} repeats the settings, seed and length of another run: counted once"
    for arm in compared:
        if (count := tried(arms, arm.optimizer)) > 1:
            lowest = best_arm(find_arms(arms, arm.optimizer), length)
            why = "the lowest mean final loss" if arm is lowest else f"it has a ladder, and {lowest.label} is no lower"
            tail = "" if arm is lowest else " by more than chance,"
            yield f"{arm.label} stands for {arm.optimizer}: {why}{tail} of {count} settings, {CHOSEN}"
    finished = [run for arm in compared for run in arm.runs if run.final_loss is not None]
    if finished and (reason := untimed(finished)):
        yield reason
    yield from provenance(runs)
    uncounted = [arm for arm in compared if any(run.last("flops/total") is None for run in arm.runs if run.rows)]
    if uncounted:
        yield f"the FLOPs of {', '.join(arm.label for arm in uncounted)} are unknown: no figure in FLOPs"
