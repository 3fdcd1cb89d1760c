"""bench_suite's part optimizers: bench_optimizers on the shapes of whole models, an optimizer at a time.

Then whole updates of those that ask for more than a step, and what the quicker ways to the same step are worth: their
drift from float64, and their loss curves.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import device as devices
from harness.config import CONFIGS
from harness.sweep.process import die_with_parent
from optimizers import list_optimizers
from scripts.bench import drift
from scripts.suite import curves, exactness, updates
from scripts.suite.exactness import CUDA_ALONE, shown
from scripts.suite.folder import Deadline, Folder
from scripts.suite.step_table import table
from scripts.suite.throughput import step_seconds
from scripts.suite.train import opened

FILE, TABLE = "optimizers.json", "optimizers.md"
RESERVE = 10  # seconds that a call keeps for its tables
# The order in which a short time is spent: what the papers' claims are about comes first.
FIRST = ["soap", "sophia_g", "muon", "lion", "shampoo", "mkor", "kfac", "adahessian", "sophia_h", "lamb", "adamw"]
# Other keywords than the YAML's: quicker ways to the same step, and GPU-only ones.
WAYS: list[tuple[str, dict[str, str]]] = [
    ("soap", {"stagger": "true"}),
    ("soap", {"projection_dtype": "tf32"}),
    ("soap", {"projection_dtype": "bfloat16"}),
    ("soap", {"qr": "cholesky"}),
    ("soap", {"gram": "triton"}),
    ("soap", {"stagger": "true", "projection_dtype": "tf32", "qr": "cholesky", "gram": "triton"}),
    ("soap", {"stagger": "true", "qr": "cholesky"}),
    ("shampoo", {"stagger": "true"}),
    ("shampoo", {"block": "1024", "stagger": "true"}),
    ("kfac", {"stagger": "true"}),
    ("kfac", {"method": "inverse"}),
]


class Cut(TimeoutError):
    """Its time was over; rows: of the rounds that ended before."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rows = rows


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        models: names of configs/model; the first one's whole updates are measured too.
        context: tokens of a pass that hooks see.
        tokens, seconds: of an update, and of a turn of whole ones.
        references: NAME=PATH of checkouts.
    """

    models: list[str]
    only: list[str]
    vocabulary: int
    context: int
    tokens: int
    seconds: float
    rounds: int
    references: list[str]
    device: str
    commit: str | None
    drift_bed: drift.Bed
    curve_bed: curves.Bed

    def ways(self) -> list[tuple[str, dict[str, str]]]:
        """Those of WAYS that are asked for and that the device has."""
        here = [(n, way) for n, way in WAYS if self.device != "cpu" or not set(way.values()) & set(CUDA_ALONE)]
        return [(name, way) for name, way in here if not self.only or name in self.only]

    def pairs(self) -> list[curves.Pair]:
        """Each of the ways beside the plain one, in the passes that train.py chooses for the device."""
        return [
            curves.Pair(shown(name, way), (f"optimizer={name}",),
                        (f"optimizer={name}", *(f"optimizer.{key}={value}" for key, value in way.items())))
            for name, way in self.ways()
        ]  # fmt: skip

    def names(self) -> list[str]:
        """Of the optimizers, in order."""
        names = [info.name for info in list_optimizers()]
        ordered = [*(n for n in FIRST if n in names), *(n for n in names if n not in FIRST)]
        return [n for n in ordered if not self.only or n in self.only]

    def updates(self, folder: Folder) -> updates.Updates:
        """Of those whose updates are more than a gradient and a step."""
        return updates.Updates(
            models=self.models[:1], vocabulary=self.vocabulary, tokens=updates.tokens_of(folder, self.tokens),
            context=self.context, seconds=self.seconds, rounds=min(self.rounds, updates.ROUNDS),
            variants=[f"{updates.VARIANT}{name}" for name in updates.beyond_steps(self.names())],
            nanogpt=None, programs=[], device=self.device, commit=self.commit, bed=self.curve_bed,
        )  # fmt: skip

    def units(self) -> list[dict[str, Any]]:
        """What a row is of: model, optimizer, and as `way` other keywords than its YAML's; in order."""
        units = [*((name, dict[str, str]()) for name in self.names()), *self.ways()]
        return [{"model": model, "optimizer": name, "way": way} for model in self.models for name, way in units]


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """All that is missing, as far as the time goes; the file is whole after every optimizer. How many are left."""
    identity = {
        **{"context": plan.context, "vocabulary": plan.vocabulary, "device": devices.device_name(plan.device)},
    }
    book, whole = folder.read(FILE, identity), plan.updates(folder)
    opened(whole, folder)  # or say at once that it is of other settings
    for key in ("rows", "failures", "drift", "curves"):
        book.setdefault(key, [])
    # What failed is tried again once the code is another.
    book["failures"] = [each for each in book["failures"] if each.get("commit") == plan.commit]

    def failed(about: Mapping[str, Any], error: str) -> None:
        book["failures"].append({**about, "error": error, "commit": plan.commit})

    fresh = True  # nothing was measured in this call yet
    left = [about for about in plan.units() if not done(about, book)]
    for about in left:
        model, optimizer, way = about["model"], about["optimizer"], about["way"]
        if deadline.left < RESERVE + 30 and not fresh:
            break
        say(f"{model}: {shown(optimizer, way)}")
        try:
            found = measure(plan, model, optimizer, way, deadline.left - RESERVE)
        except TimeoutError as error:
            if not fresh:
                break  # it gets a whole call, the next one
            if not (found := getattr(error, "rows", [])):
                failed(about, f"did not end within {deadline.minutes:g} minutes")
        except ValueError as error:
            found = []
            failed(about, str(error))
        book["rows"] += [{**row, **about, "commit": plan.commit} for row in found]
        fresh = False
        keep(book, folder)
    rounds = updates.measure(whole, folder, deadline, fresh, say)
    keep(book, folder)
    book["drift"] = [row for row in book["drift"] if not row.get("error") or row.get("commit") == plan.commit]
    drifts = exactness.measure(plan.drift_bed, plan.only, book, deadline, RESERVE, say)
    for row in book["drift"]:
        row.setdefault("commit", plan.commit)
    keep(book, folder)
    pairs = curves.measure(plan.pairs(), plan.curve_bed, book["curves"], deadline, RESERVE, say)
    keep(book, folder)
    return sum(not done(about, book) for about in left) + rounds + drifts + pairs


def done(about: Mapping[str, Any], book: Mapping[str, Any]) -> bool:
    """Whether it was measured, or cannot be."""
    return any(about.items() <= row.items() for row in [*book["rows"], *book["failures"]])


def measure(plan: Plan, model: str, optimizer: str, way: dict[str, str], seconds: float) -> list[dict[str, Any]]:
    """bench_optimizers' rows, measured in a process of its own. Raises Cut, or ValueError with its last words."""

    def read() -> list[dict[str, Any]]:
        # With other keywords than its YAML's, ours alone: the references stand beside the plain one.
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
        return [row for row in rows if not way or row["implementation"].startswith("halfstep")]

    shape = yaml.safe_load((CONFIGS / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    given = [r for r in plan.references if r.partition("=")[0] == optimizer]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        line = [
            sys.executable, "-m", "scripts.bench_optimizers", "--only", optimizer, "--json", str(file),
            "--layers", str(shape["layers"]), "--width", str(shape["width"]), "--vocabulary", str(plan.vocabulary),
            "--tokens", str(plan.context), "--rounds", str(plan.rounds), "--device", plan.device,
        ]  # fmt: skip
        line += [word for key, value in way.items() for word in ("--set", f"{optimizer}.{key}={value}")]
        line += [word for reference in given for word in ("--reference", reference)]
        process = subprocess.Popen(
            line, cwd=CONFIGS.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            _, words = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            raise Cut(read()) from None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        if process.returncode:
            raise ValueError((words.strip().splitlines() or ["it ended without a word"])[-1][:300])
        return read()


def keep(book: dict[str, Any], folder: Folder) -> None:
    """Write the file and the table; what is beside a whole step as soon as part train, or an update here, has one.

    updates: what throughput.json has of whole ones.
    share_of_step: with the hooks' time, which was measured on one pass of `context` tokens and counts for every one
        of the step's: times the step's tokens over the context.
    worst_over_median_step: (step + largest) / (step + median) of the optimizer's own steps, hooks left out.
    """
    for row in book["rows"]:
        row["share_of_step"] = row["hooks_ms_per_update"] = row["worst_over_median_step"] = row["step_tokens"] = None
        seconds = step_seconds(folder, row["model"]) or updates.adamw_seconds(folder, row["model"])
        if seconds is None:
            continue
        step = 1e3 * seconds
        row["step_tokens"] = updates.tokens_of(folder, 0)
        if row["hooks_ms_per_step"] is not None:
            row["hooks_ms_per_update"] = row["hooks_ms_per_step"] * row["step_tokens"] / book["identity"]["context"]
        row["share_of_step"] = (row["amortised_ms"] + (row["hooks_ms_per_update"] or 0.0)) / step
        if row.get("worst_ms") is not None:
            row["worst_over_median_step"] = (step + row["worst_ms"]) / (step + row["median_ms"])
    book["updates"] = updates.rows(folder)
    folder.write(FILE, book)
    folder.write_table(TABLE, table(book))
