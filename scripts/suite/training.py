"""Runs of train.py within a call's time: a sweep in one process, so that what is alike is compiled once."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.process import die_with_parent
from harness.sweep.jobs import outcomes
from scripts.study.sweep import RUNS, command

POLL = 1.0  # seconds
PATIENCE = 10  # seconds that a run has to end by itself once it is interrupted; killed it loses no more


@dataclass(frozen=True)
class Job:
    """A run to begin.

    Attributes:
        kind: runs that take as long per update.
        stage: which of the stages it is of.
        left: updates, from its newest checkpoint on.
        tokens: per update.
        experiment: the text of its YAML.
    """

    name: str
    kind: str
    stage: int
    left: int
    tokens: int
    experiment: Callable[[], str]


def train(experiments: Mapping[str, str], overrides: Sequence[str], seconds: float) -> bool:
    """As `attempt`, for who can use them only together: ValueError where one fails."""
    whole, failed, place = attempt(experiments, overrides, seconds)
    if whole and failed:
        why = next(iter(failed.values()))
        raise ValueError(f"a run did not end: {why}; {place / 'jobs.jsonl'} tells of every one")
    return whole


def attempt(
    experiments: Mapping[str, str], overrides: Sequence[str], seconds: float
) -> tuple[bool, dict[str, str], Path]:
    """Train them, one after another, until they end or the time does.

    Returns whether each had its turn (False: the time was over, or Ctrl-C), and a sentence on what failed, by name:
    the first alone, for a process in which one run failed may have nothing left for the next, its memory say. And the
    sweep's folder.
    Raises ValueError where none was begun: the command itself is wrong.
    """
    line, place = command(experiments, RUNS / "suite", overrides)
    process = subprocess.Popen(line, preexec_fn=_begin)
    try:
        code = _ended(process, place, len(experiments), max(1.0, seconds))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False, _first_failure(experiments, place), place
    failed = _first_failure(experiments, place)
    if code and not failed:
        there = outcomes(place)
        died = next((name for number, name in enumerate(experiments) if number not in there), None)
        if code > 0 or died is None:
            raise ValueError(f"train.py ended with {code}, before any run: {place} holds what it was given")
        failed = {died: f"its process was killed by the signal {signal.Signals(-code).name}"}
    return True, failed, place


def _ended(process: "subprocess.Popen[bytes]", place: Path, jobs: int, seconds: float) -> int:
    """Its exit code, 0 where all jobs have theirs: torch's compile workers can hold up its exit for five minutes.

    Raises TimeoutExpired after so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return process.wait(min(POLL, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if len(outcomes(place)) == jobs:
                break
            if time.monotonic() >= end:
                raise
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 0


def _first_failure(experiments: Mapping[str, str], place: Path) -> dict[str, str]:
    there = outcomes(place)
    found = ((name, there.get(number, {})) for number, name in enumerate(experiments))
    failed = {name: str(outcome["error"]) for name, outcome in found if outcome.get("status") == "failed"}
    return dict(list(failed.items())[:1])


def _begin() -> None:
    """What is started in the background is deaf to SIGINT, and so would be every run; and none outlives its call."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


def updates_kept(folder: Path) -> int:
    """By a run's newest checkpoint; 0 where there is none."""
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
    return max(steps, default=0)
