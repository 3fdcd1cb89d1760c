"""Names the runs that count for less than others: lost, of another device, or of uncommitted changes."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from judge.comparison import Comparison
from judge.fairness import endings
from judge.records import Run
from judge.timing import device_of

LOST = ("diverged", "failed", "cut", "running")
NAMED = 6  # runs that a row lists by name


def oddities(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of runs that count for less than others: what is the matter, and which they are."""
    device = usual_device(comparison)
    matters: dict[str, list[Run]] = {}
    for run in comparison.runs:
        for matter in _matters(run, device):
            matters.setdefault(matter, []).append(run)
    return [
        {
            "matter": matter,
            "count": len(runs),
            "all": len(runs) == len(comparison.runs),
            "runs": runs[:NAMED],
            "more": max(0, len(runs) - NAMED),
        }
        for matter, runs in matters.items()
    ]


def usual_device(comparison: Comparison) -> str | None:
    """Return the device of most of the baseline's runs; None where no run has begun."""
    usual = Counter(device_of(run) for run in comparison.standings[0].arm.runs if run.rows).most_common(1)
    return usual[0][0] if usual else None


def badges(run: Run, device: str | None) -> list[str]:
    """Say what stands beside a run's name in red: the same, in a word or two each."""
    words = [word(run.status)] if run.status in LOST else []
    if device and run.rows and device_of(run) != device:
        words.append(device_of(run))
    if run.known("git", "dirty"):
        words.append("uncommitted changes")
    return words


def word(status: str) -> str:
    """Write a run's status as it reads after a number."""
    return {"cut": "cut off", "running": "still running"}.get(status, status)


def _matters(run: Run, device: str | None) -> Iterator[str]:
    for sentence in endings([run]):
        yield sentence.removeprefix(f"{run.name} ").partition(": resume=true")[0]
    if device and run.rows and device_of(run) != device:
        yield f"ran on {device_of(run)}, the baseline on {device}"
    if run.known("git", "dirty"):
        yield f"uncommitted changes in the working tree, at commit {str(run.known('git', 'commit'))[:7]}"
