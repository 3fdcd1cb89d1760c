"""Mirrors of metrics.jsonl, chosen by the config group `tracker`. A mirror that fails never stops the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from conventions.sentence import nearest
from harness.wandb_tracker import WandbTracker


class Tracker(Protocol):
    """Somewhere that rows go besides metrics.jsonl."""

    def log(self, row: dict[str, Any]) -> None: ...

    def close(self, status: str) -> None: ...


class NoTracker:
    """metrics.jsonl alone."""

    def __init__(self, folder: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        pass

    def close(self, status: str) -> None:
        pass


TRACKERS: dict[str, Callable[..., Tracker]] = {"none": NoTracker, "wandb": WandbTracker}


def find(name: str) -> Callable[..., Tracker]:
    """A tracker's class; ValueError for an unknown one."""
    if name not in TRACKERS:
        raise ValueError(f"tracker.name={name} is not there: {nearest(name, TRACKERS)}")
    return TRACKERS[name]
