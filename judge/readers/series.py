"""Takes a log apart into runs: several in one file, lines printed twice, a run that was resumed further back.

the step falls to where the run began, or its planned length changes    another run begins
what follows a fall is in the run already                               printed twice: left out
the step falls to somewhere in between                                  resumed: what follows takes its place
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from judge.readers.log import Log, Source, is_loss
from judge.readers.units import LoggedRow, rows_of

LOSSES = ("train/loss", "val/loss")
CLOCKS = ("seconds/total", "seconds/elapsed")
JUMP, LEAST = 3.0, 1e-3  # a last drop so many times as steep as those before it, of so many nats, is no plain training


@dataclass(frozen=True)
class ForeignRun:
    """One run that somebody else trained, in the keys and units of a run folder."""

    name: str
    source: Source
    lines: tuple[int, int]  # first and last of the source; (0, 0) where it has none
    rows: list[dict[str, float]]  # one for each step, ascending
    meaning: dict[str, str]  # quantity: column of the source
    config: dict[str, Any]  # as the source tells it
    notes: tuple[str, ...]  # what was odd
    total: int | None = None  # updates that were planned
    cut: str = ""  # why it is not the whole run, where the source tells that

    @property
    def evaluations(self) -> list[dict[str, float]]:
        return [row for row in self.rows if "val/loss" in row]

    @property
    def last(self) -> int:
        """Return the step of the last validation loss."""
        return int(self.evaluations[-1]["step"])

    @property
    def diverged(self) -> bool:
        """Return whether one of the run's last losses is not finite."""
        last = [[row[key] for row in self.rows if key in row][-1:] for key in ("val/loss", "train/loss")]
        return any(not math.isfinite(value) for values in last for value in values)

    def points(self) -> set[tuple[float | None, ...]]:
        """Return the step, loss and clock of every evaluation, by which runs are compared."""
        return {(row["step"], row["val/loss"], row.get("seconds/total")) for row in self.evaluations}


def runs_in(log: Log, meaning: Mapping[str, str], bytes_per_token: float | None = None) -> list[ForeignRun]:
    """Return the runs of a log that have a validation loss. Raises ValueError if there is none."""
    runs = []
    for label, rows in rows_of(log, meaning, bytes_per_token).items():
        parts = _parts(rows)
        longest = max(own[-1].values["step"] for own, _ in parts)
        for index, (own, notes) in enumerate(parts):
            name = label or log.name
            if len(parts) > 1:
                name += f"#{index}"
                notes = [f"one of {len(parts)} runs in its file", *notes]
            run = _run(name, log, meaning, own, [*log.notes, *notes])
            if run.total is None and own[-1].values["step"] < longest:  # begun anew, it may be, after a crash
                run = replace(
                    run, cut=f"it ends at step {own[-1].values['step']:.0f}, another of its file at {longest:.0f}"
                )
            runs.append(run)
    if runs:  # what was cut off is at the end of the source
        runs[-1] = replace(runs[-1], cut=log.cut or runs[-1].cut)
    runs = [run for run in runs if run.evaluations]
    if not runs:
        raise ValueError(f"{log.source.path} has no line with a step and a validation loss: is it cut off?")
    return runs


def without_repeats(runs: Sequence[ForeignRun]) -> tuple[list[ForeignRun], list[tuple[str, str]]]:
    """Return the runs of which no other holds every evaluation, and (name, why) of each that was left out.

    Without a clock, three equal losses are wanted: one may be equal by chance.
    """
    kept: list[ForeignRun] = []
    left: list[tuple[str, str]] = []
    index: dict[tuple[float | None, ...], list[ForeignRun]] = {}
    for run in sorted(runs, key=lambda run: -len(run.evaluations)):
        points = run.points()
        telling = len(points) >= 3 or all(point[2] is not None for point in points)
        last = max(points, key=lambda point: point[0] or 0)
        twin = next((other for other in index.get(last, []) if points <= other.points()), None) if telling else None
        if twin:
            left.append((run.name, f"each of its evaluations is in {twin.name}"))
            continue
        kept.append(run)
        for point in points:
            index.setdefault(point, []).append(run)
    order = {id(run): place for place, run in enumerate(runs)}
    return sorted(kept, key=lambda run: order[id(run)]), left


def cut(run: ForeignRun, step: int) -> ForeignRun:
    """Return the run up to a step at which it was evaluated; ValueError if there was none."""
    if step not in {int(row["step"]) for row in run.evaluations}:
        near = min((int(row["step"]) for row in run.evaluations), key=lambda each: abs(each - step))
        raise ValueError(f"{run.name} has no validation loss at step {step}: the nearest is at step {near}")
    notes = list(run.notes)
    if run.last > step:
        notes.append(f"it went on to step {run.last}: stated at {step}")
    if run.total is not None and run.total != step:
        notes.append(f"stated at step {step} of a schedule of {run.total}: not decayed to its end")
    return replace(run, rows=[row for row in run.rows if row["step"] <= step], notes=tuple(notes))


def _parts(rows: Sequence[LoggedRow]) -> list[tuple[list[LoggedRow], list[str]]]:
    """Return the rows of each run in order of step, and what was odd."""
    runs: list[tuple[list[LoggedRow], list[str]]] = []
    for segment in _rising(rows):
        if not runs:
            runs.append((segment, []))
            continue
        own, notes = runs[-1]
        held = {mark for row in own for mark in _marks(row)}
        first, number = int(segment[0].values["step"]), segment[0].number
        where = f"line {number}" if number else f"step {first}"
        if all(_marks(row) <= held for row in segment):
            notes.append(f"printed again from {where}: {len(segment)} lines left out")
        elif first <= own[0].values["step"] or _total(segment) != _total(own):
            runs.append((segment, []))
        else:
            last = int(own[-1].values["step"])
            notes.append(f"goes back from step {last} to {first} at {where}: what follows replaces what it repeats")
            own[:] = [*(row for row in own if row.values["step"] < first), *segment]
    return runs


def _rising(rows: Sequence[LoggedRow]) -> list[list[LoggedRow]]:
    """Split rows into stretches whose step never falls, and where no loss of a step comes twice with two values."""
    stretches: list[list[LoggedRow]] = []
    at: dict[str, float] = {}  # values at the present step
    for row in rows:
        step = row.values["step"]
        both = [key for key in LOSSES if key in at and key in row.values] if stretches and step == at["step"] else []
        again = any(repr(at[key]) != repr(row.values[key]) for key in both)
        if not stretches or step < at["step"] or again:
            stretches.append([])
            at = {}
        at = at | row.values if at.get("step") == step else dict(row.values)
        stretches[-1].append(row)
    return stretches


def _marks(row: LoggedRow) -> set[tuple[float, str, str]]:
    """Return the values by which a line printed twice is recognised; as words, for NaN is not equal to itself."""
    return {(row.values["step"], key, repr(value)) for key, value in row.values.items()}


def _total(rows: Sequence[LoggedRow]) -> float | None:
    return next((row.values["total"] for row in rows if "total" in row.values), None)


def _run(name: str, log: Log, meaning: Mapping[str, str], rows: Sequence[LoggedRow], notes: list[str]) -> ForeignRun:
    merged: list[dict[str, float]] = []
    for row in rows:
        values = {key: value for key, value in row.values.items() if key != "total"}
        if merged and merged[-1]["step"] == values["step"]:
            merged[-1] |= values
        else:
            merged.append(values)
    notes += _clock_trouble(merged)
    evaluations = list({row.values["step"]: row for row in rows if "val/loss" in row.values}.values())
    notes += _endings(evaluations, meaning)
    notes += _remarks(evaluations, {*meaning.values(), *filter(is_loss, log.columns)}) if log.remarks else []
    numbers = [row.number for row in rows]
    total = _total(rows)
    return ForeignRun(
        name=name,
        source=log.source,
        lines=(min(numbers), max(numbers)),
        rows=merged,
        meaning=dict(meaning),
        config=dict(log.config),
        notes=tuple(notes),
        total=int(total) if total and 0 < total < math.inf else None,
    )


def _clock_trouble(rows: list[dict[str, float]]) -> list[str]:
    """Return a sentence on each clock that is wrong, and remove that clock from the rows."""
    notes = []
    for clock in CLOCKS:
        timed = [(row["step"], row[clock]) for row in rows if clock in row]
        falls = any(after[1] < before[1] for before, after in pairwise(timed))
        late = len(timed) > 1 and _late(timed[0], timed[1])
        if falls or late or any(not math.isfinite(value) for _, value in timed):
            why = (
                f"did not run before step {timed[0][0]:.0f}"
                if late
                else "goes back"
                if falls
                else "is no number somewhere"
            )
            notes.append(f"its clock {why}: {clock} is unknown")
            for row in rows:
                row.pop(clock, None)
    return notes


def _late(first: tuple[float, float], then: tuple[float, float]) -> bool:
    """Return whether a clock left out steps before the first evaluation: each took less than a fifth of a later one."""
    between = (then[1] - first[1]) / (then[0] - first[0])
    return first[0] > 0 and first[1] / first[0] < between / 5


def _endings(rows: Sequence[LoggedRow], meaning: Mapping[str, str]) -> list[str]:
    """Return sentences on the first evaluation, on the last ones and on further losses."""
    if not rows:
        return []
    notes = []
    if rows[0].values["step"] > 0:
        notes.append(f"its first evaluation is at step {rows[0].values['step']:.0f}, not 0")
    if len(rows) == 1:
        notes.append("one evaluation only: no curve")
    others = [column for column in rows[-1].line.values if is_loss(column) and column not in meaning.values()]
    if others:
        notes.append(f"it also has {', '.join(others)}: --map val/loss={others[-1]} takes that")
    if drop := _jump(rows):
        notes.append(f"{drop}: the last loss may be of averaged weights (--weights says so)")
    return notes


def _remarks(rows: Sequence[LoggedRow], known: set[str]) -> list[str]:
    """Say that the last evaluation's line has a mark that was absent or another in all of the first half.

    One line is no habit: below two in the first half nothing is said.
    """
    early = rows[: len(rows) // 2]
    odd = []
    for key, value in rows[-1].line.values.items() if len(early) > 1 else []:
        usual = {row.line.values.get(key) for row in early}
        if key not in known and len(usual) == 1 and value not in usual and value == value:
            odd.append(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}")
    if not odd:
        return []
    return [f"its last line has {', '.join(odd)}: the loss may be of weights that were changed after training"]


def _jump(rows: Sequence[LoggedRow]) -> str:
    """Return a sentence where the last drop of the loss is far steeper than those before it."""
    points = [(row.values["step"], row.values["val/loss"]) for row in rows]
    slopes = [(b[1] - a[1]) / (a[0] - b[0]) for a, b in pairwise(points) if b[0] > a[0]]
    if len(slopes) < 6 or not all(map(math.isfinite, slopes[-6:])):
        return ""
    before, drop = median(slopes[-6:-1]), points[-2][1] - points[-1][1]
    if drop < LEAST or slopes[-1] < JUMP * max(before, 0) or slopes[-1] < JUMP * max(slopes[-6:-1]):
        return ""
    return f"the loss falls by {drop:.4f} in its last {points[-1][0] - points[-2][0]:.0f} steps, after much less before"
