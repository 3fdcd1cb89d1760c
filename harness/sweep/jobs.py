"""The jobs of a sweep, and what became of each: one line a job in jobs.jsonl, in the sweep's own folder."""

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from conventions.run_format import RUNS
from conventions.sentence import on_first_rank, say
from harness.config import check_study


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number and the overrides that make it."""

    folder: Path  # the sweep's
    number: int
    overrides: list[str]  # and flags, such as --config-dir
    run: Path | None = None  # the folder of its run; None where its config is wrong, which is the job's to say
    label: str = ""  # what it has that others of the sweep have not

    @property
    def log(self) -> Path:
        """Return the file that has what the job prints, where it is a process of its own."""
        return self.folder / f"{self.number}.log"

    def record(self, status: str, error: str | None = None) -> None:
        """Append the outcome; a single short O_APPEND write, so that jobs side by side do not mix lines.

        status: finished, diverged, failed, or cut: ended from outside, and to be gone on with.
        """
        line = json.dumps({"job": self.number, "overrides": self.overrides, "status": status, "error": error})
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "jobs.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (line + "\n").encode())
        finally:
            os.close(handle)


def sweep_name() -> str:
    """Return a name for a sweep's folder that no other sweep has: the time, and what no clock decides.

    The ranks of one torchrun have one name.
    """
    apart = secrets.token_hex(4)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launch = [os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        apart = hashlib.sha256(" ".join(launch).encode()).hexdigest()
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{apart[:8]}"


def sweep_folder(study: Any) -> str:
    """Return a new sweep's folder, in the study's; a ValueError says that the study is no name of a folder."""
    check_study(str(study))
    return str(RUNS / str(study) / ".sweeps" / sweep_name())


def outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what was recorded last of each of a sweep's jobs, by the job's number."""
    path = folder / "jobs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {row["job"]: row for row in rows}


def refuse_shared_folders(jobs: Sequence[Job]) -> None:
    """Raise ValueError where two jobs would write one run's folder: the second could only fail."""
    owners: dict[Path, Job] = {}
    for job in jobs:
        if job.run is None:
            continue
        other = owners.setdefault(job.run.resolve(), job)
        if other is job:
            continue
        if any(override.lstrip("+").startswith("run_dir=") for override in job.overrides):
            raise ValueError(
                f"run_dir={job.run} is one folder for several jobs of the sweep: "
                "leave run_dir out, each run then has its own in results/runs/<study>"
            )
        raise ValueError(
            f"jobs {other.number} and {job.number} of the sweep are one run, {job.run}: they differ in nothing "
            "that decides what is computed; leave one out, or give each its own study"
        )


class Outcome(Callback):
    """Says, when a sweep has ended, how many of its jobs failed; `failed` keeps the count for the exit code."""

    failed = 0

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        ended = [row["status"] for row in outcomes(folder).values()]
        failed, cut = ended.count("failed"), ended.count("cut")
        Outcome.failed = failed + cut
        if Outcome.failed and on_first_rank():
            counts = {f"{failed} of the sweep's jobs failed": failed, f"{cut} of the sweep's jobs cut off": cut}
            summary = ", ".join(text for text, count in counts.items() if count)
            say(f"{summary}: {folder / 'jobs.jsonl'}")
