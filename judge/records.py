"""Reads run folders back: everything that draws a table or a plot starts here, and needs no torch.

for run in find_runs("results/runs/my_study"):
    print(run.name, run.status, run.final_loss)
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from conventions.config_keys import optimizer_name
from conventions.form import CONFIG, MANIFEST, OWN_CONFIG, misfit
from conventions.json_text import parse_json
from conventions.older_keys import completed
from conventions.run_format import SCHEMA, STATUSES, Status, first_line, read_rows, seen_status
from conventions.yaml_file import read_yaml
from judge.downstream import PREFIX, metric, read_scores
from judge.windows import EvaluationParts

REMEDY = "restore it, or move the folder away"


@dataclass(frozen=True)
class Point:
    """One evaluation: the validation loss in nats per token, and what it had cost to get there."""

    loss: float
    steps: float
    flops: float | None  # None: unknown, for instance an external optimizer whose work could not be counted
    seconds: float | None  # inside the clock: no compile, evaluation, checkpoint


@dataclass(frozen=True)
class Run:
    """One run folder. `rows` are metrics.jsonl's, in order; what was not finite is None in them."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.manifest.get("name") or self.folder.name)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def knows_seed(self) -> bool:
        """Return whether the run's seed is known; a foreign run's may only be its number among others."""
        return not any(str(key).startswith("seed") for key in self.known("origin", "unknown") or ())

    @property
    def steps(self) -> int:
        """Return the length that the run was planned for, in updates."""
        return self.config["steps"]

    @property
    def step(self) -> int:
        """Return the updates made so far, as far as metrics.jsonl tells."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def optimizer(self) -> str:
        """Return the registry's name, or the class path where it came by `optimizer._target_`."""
        return optimizer_name(self.config["optimizer"])

    def section(self, key: str) -> dict[str, Any]:
        """Return a group of the config; a foreign run's may be a plain word, which is its name, or unknown: empty."""
        value = self.config.get(key)
        return value if isinstance(value, dict) else {} if value is None else {"name": str(value)}

    @cached_property
    def status(self) -> Status:
        """Return the manifest's word, but "cut" for a run that says "running" while nobody holds its lock."""
        return seen_status(self.folder, self.manifest["status"])

    @cached_property
    def points(self) -> list[Point]:
        """Return the evaluations, in order."""
        return [
            Point(row["val/loss"], row["step"], row.get("flops/total"), row.get("seconds/total"))
            for row in self.rows
            if row.get("val/loss") is not None
        ]

    @property
    def final_loss(self) -> float | None:
        """Return the validation loss of the last weights, in nats per token; None unless it finished and has one."""
        if self.status == "finished" and self.points and self.points[-1].steps == self.steps:
            return self.points[-1].loss
        return None

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The scores that scripts.downstream wrote, by the name of the task."""
        return read_scores(self.folder)

    @property
    def parts(self) -> EvaluationParts | None:
        """Return the parts of the evaluation of the last weights; None where the run did not log them."""
        targets, losses = self.known("validation", "targets"), self.known("validation", "losses")
        if not isinstance(targets, list) or not isinstance(losses, list) or len(targets) != len(losses):
            return None
        windows = self.known("data", "fingerprint"), self.config.get("context"), self.section("eval").get("tokens")
        return EvaluationParts(repr(windows), np.array(targets, dtype=float), np.array(losses, dtype=float))

    def last(self, key: str) -> Any:
        """Return the newest value of a metric that is not null, or a score downstream/<task>; None: there is none."""
        if key.startswith(PREFIX):
            return metric(self.scores, key)
        return next((row[key] for row in reversed(self.rows) if row.get(key) is not None), None)

    def known(self, *keys: str) -> Any:
        """Return a value deep in the manifest, None where any part of the way is missing or null."""
        value: Any = self.manifest
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def find_runs(folder: str | Path) -> list[Run]:
    """Return every run below `folder`, sorted by path. A folder is a run if it holds a manifest.

    Raises ValueError, a sentence that names the file, where a manifest, config or metrics file is broken, and
    where the folder is not there or holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder of a study, such as results/runs/default")
    runs = [read_run(path) for path in sorted(_run_folders(folder))]
    if not runs:
        raise ValueError(f"{folder} holds no run (no manifest.json anywhere below it): train one first")
    return runs


def has_runs(folder: Path) -> bool:
    """Return whether there is a run below a folder."""
    return any(_run_folders(folder))


def read_run(folder: Path) -> Run:
    """Read one run folder; ValueError names the file that is missing or broken."""
    manifest = _read(folder / "manifest.json", _read_json)
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"{folder / 'manifest.json'} is of schema {manifest.get('schema')!r} and this halfstep reads "
            f"{SCHEMA}: use the version that wrote it, or move the folder away"
        )
    if manifest.get("status") not in STATUSES:
        raise ValueError(
            f"{folder / 'manifest.json'}: status is {manifest.get('status')!r}, not one of {', '.join(STATUSES)}"
        )
    config = _read(folder / "config.yaml", read_yaml)
    for key in ("steps", "seed", "optimizer"):
        if config.get(key) is None:
            raise ValueError(f"{folder / 'config.yaml'} has no usable {key!r}: {REMEDY}")
    foreign = manifest.get("origin") is not None
    forms = {"manifest.json": (manifest, MANIFEST), "config.yaml": (config, CONFIG if foreign else OWN_CONFIG)}
    for name, (values, form) in forms.items():
        if problem := misfit(values, form):
            raise ValueError(f"{folder / name}: {problem}: {REMEDY}")
    if config["steps"] < 1:
        raise ValueError(f"{folder / 'config.yaml'}: steps must be at least 1, not {config['steps']}: {REMEDY}")
    if not (config["optimizer"].get("name") or config["optimizer"].get("_target_")):
        raise ValueError(f"{folder / 'config.yaml'} does not name its optimizer: {REMEDY}")
    if not foreign:  # of a foreign run nothing is known but what its config says
        config = completed(config)
    return Run(folder, config, manifest, read_rows(folder / "metrics.jsonl"))


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "manifest.json" in files:
            folders.clear()  # nothing below a run is another run
            yield Path(path)


def _read(path: Path, read: Callable[[Path, str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(path, REMEDY)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {REMEDY}") from None


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is broken ({first_line(error)}): {remedy}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is broken (not a mapping): {remedy}")
    return value
