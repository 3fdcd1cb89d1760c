"""Loss curves of quick ways to train beside the plain one's, from the same seed; and what another seed does to that.

Runs of train.py on Python's own source text, at the vocabulary that is asked for, so that the head has its size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conventions.planned_run import PlannedRun
from conventions.run_format import RUNS
from harness.command_line import composed
from harness.sweep.planned import plan_run, sweep_runs
from judge.records import Run, read_run
from scripts.suite.folder import Cell, Deadline, commits, figure, markdown

SEEDS = (0, 1)
SMOOTHED = 15  # windows that a curve is cut into; the means of two curves' windows are compared
PLACE = RUNS / "curves"
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A quick way and the plain one, as overrides of train.py's."""

    title: str
    plain: tuple[str, ...]
    quick: tuple[str, ...]


@dataclass(frozen=True)
class Bed:
    """What all of them train on."""

    model: str
    tokens: int
    context: int
    vocabulary: int
    updates: int
    device: str

    def trainings(self, pair: Pair) -> list[PlannedRun]:
        """The quick way, the plain one, the plain one from another seed."""
        runs = [(pair.quick, SEEDS[0]), (pair.plain, SEEDS[0]), (pair.plain, SEEDS[1])]
        return [self._training(overrides, seed) for overrides, seed in runs]

    def _training(self, overrides: Sequence[str], seed: int) -> PlannedRun:
        common = {
            "model": self.model, "model.vocabulary": self.vocabulary, "context": self.context, "data": "stdlib",
            "batch.tokens": self.tokens, "steps": self.updates, "seed": seed, "device": self.device, "study": "curves",
            "log.every": 1, "eval.every": self.updates, "eval.tokens": 8 * self.tokens, "checkpoint.every": 100,
            "schedule.warmup": 0.1, "tracker": "none",
        }  # fmt: skip
        return plan_run(composed([*(f"{key}={value}" for key, value in common.items()), *overrides]), {}, PLACE)

    def identity(self, pair: Pair) -> Row:
        return {"title": pair.title, "model": self.model, "vocabulary": self.vocabulary, "updates": self.updates}


def measure(
    pairs: Sequence[Pair], bed: Bed, rows: list[Row], deadline: Deadline, reserve: float, say: Callable[[str], None],
    commit: str | None = None,
) -> int:  # fmt: skip
    """Train what is missing, as far as the time goes, and add the rows that are whole. How many are left.

    A pair whose run failed has a row with an `error`, which counts for nothing at another commit.
    """
    rows[:] = [row for row in rows if not row.get("error") or row.get("commit") == commit]
    missing = [pair for pair in pairs if not _known(bed.identity(pair), rows)]
    wanted = {each.name: each for pair in missing for each in bed.trainings(pair)}
    todo = [each for each in wanted.values() if not each.ended]
    error = None
    if todo and deadline.left > reserve:
        say(f"{bed.model}: loss curves of {', '.join(pair.title for pair in missing)}: {len(todo)} runs")
        ending = sweep_runs(todo, PLACE, [], deadline.left - reserve)
        error = next((f"a run did not end: {why}" for why in ending.failed.values()), None)
    for pair in missing:
        row = _row(pair, bed) or ({**bed.identity(pair), "error": error} if error else None)
        if row:
            rows.append({"commit": commit, "commits": None, **row})
    return left(pairs, bed, rows)


def left(pairs: Sequence[Pair], bed: Bed, rows: Sequence[Row]) -> int:
    return sum(not _known(bed.identity(pair), rows) for pair in pairs)


def _known(identity: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return any(identity.items() <= row.items() for row in rows)


def _row(pair: Pair, bed: Bed) -> Row | None:
    """None where a run is missing, or was cut off."""
    folders = [each.folder for each in bed.trainings(pair)]
    if not all((folder / "manifest.json").is_file() for folder in folders):
        return None
    quick, plain, other = runs = [read_run(folder) for folder in folders]
    if any(run.status in ("running", "cut") for run in runs):
        return None
    words = [f"{run.status}: {run.manifest['error']}" for run in runs if run.status != "finished"]
    row = {**bed.identity(pair), "error": words[0] if words else None}
    row["commits"] = commits([run.manifest["git"] for run in runs])
    if words:
        return row
    return row | {
        "largest": largest_difference(losses(quick), losses(plain)),
        "of_seeds": largest_difference(losses(other), losses(plain)),
        "final": abs(_final(quick) - _final(plain)), "final_of_seeds": abs(_final(other) - _final(plain)),
    }  # fmt: skip


def losses(run: Run) -> list[float]:
    """On the batch of every update."""
    return [row["train/loss"] for row in run.rows if row.get("train/loss") is not None]


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the means over the windows that two curves of the same length are cut into."""
    windows = [[part.mean() for part in np.array_split(np.array(each), SMOOTHED)] for each in (one, other)]
    return max(abs(float(a - b)) for a, b in zip(*windows, strict=True))


def _final(run: Run) -> float:
    assert run.final_loss is not None
    return run.final_loss


def table(rows: Sequence[Row]) -> str:
    """Markdown; empty where nothing was trained."""
    if not rows:
        return ""
    columns: dict[str, Cell] = {
        "quick way": "title", "model": "model", "updates": "updates",
        "largest difference of the smoothed loss": figure("largest", 4), "of two plain seeds": figure("of_seeds", 4),
        "final loss": figure("final", 4), "of the seeds": figure("final_of_seeds", 4), "commit": "commits",
        "": "error",
    }  # fmt: skip
    return (
        "\nLosses in nats per token, from the same seed, beside the plain way's; and what another seed does to the "
        f"plain way. Smoothed: means over {SMOOTHED} windows of the training loss. Final: on the validation split.\n\n"
        f"{markdown(columns, rows)}"
    )
