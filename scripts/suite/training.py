"""Runs of train.py within a call's time: a sweep in one process, so that what is alike is compiled once."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.records import Run
from harness.sweep.jobs import outcomes
from harness.sweep.process import die_with_parent
from scripts.study.sweep import RUNS, command

PATIENCE = 30  # seconds that a run has to end by itself once it is interrupted


@dataclass(frozen=True)
class Job:
    """A run to begin. kind: runs that take as long per update. experiment: the text of its YAML."""

    name: str
    kind: str
    steps: int
    experiment: Callable[[], str]


def train(experiments: Mapping[str, str], overrides: Sequence[str], seconds: float) -> bool:
    """Train them, one after another, until they end or the time does; False where it did, or Ctrl-C."""
    line, place = command(experiments, RUNS / "suite", overrides)
    process = subprocess.Popen(line, preexec_fn=_begin)
    try:
        code = process.wait(max(1.0, seconds))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    if code:
        errors = [row["error"] for row in outcomes(place).values() if row["status"] == "failed" and row["error"]]
        why = errors[0] if errors else f"code {code}"
        raise ValueError(f"a run did not end: {why}; {place / 'jobs.jsonl'} tells of every one")
    return True


def _begin() -> None:
    """What is started in the background is deaf to SIGINT, and so would be every run; and none outlives its call."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


def seconds_per_update(run: Run) -> float | None:
    """Its start and all else included; None where it was cut off or did not finish."""
    if run.status != "finished" or run.manifest["resumes"]:
        return None
    begun, ended = (datetime.fromisoformat(run.manifest[key]).timestamp() for key in ("started", "ended"))
    return (ended - begun) / run.steps
