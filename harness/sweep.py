"""What became of each job of a sweep: one line a job in jobs.jsonl, in the sweep's own folder."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from harness.sentence import on_first_rank


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number and the overrides that make it."""

    folder: Path
    number: int
    overrides: list[str]

    def record(self, status: str, error: str | None = None) -> None:
        """Append the outcome; a single short O_APPEND write, so that jobs side by side do not mix lines."""
        line = json.dumps({"job": self.number, "overrides": self.overrides, "status": status, "error": error})
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "jobs.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (line + "\n").encode())
        finally:
            os.close(handle)


def failures(folder: Path) -> list[dict]:
    """The jobs of a sweep that failed, as they were recorded."""
    path = folder / "jobs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row for row in rows if row["status"] == "failed"]


class Outcome(Callback):
    """Says, when a sweep has ended, how many of its jobs failed; `failed` keeps the count for the exit code."""

    failed = 0

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        Outcome.failed = len(failures(folder))
        if Outcome.failed and on_first_rank():
            print(
                f"halfstep: {Outcome.failed} of the sweep's jobs failed: {folder / 'jobs.jsonl'}",
                file=sys.stderr,
            )
