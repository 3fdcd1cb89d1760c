"""Mirrors of metrics.jsonl, chosen by the config group `tracker`. A mirror that fails never stops the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from conventions.sentence import nearest
from harness.wandb_tracker import WandbTracker


class Tracker(Protocol):
    """An object that gets every row after metrics.jsonl has it: a mirror, or a display."""

    def log(self, row: dict[str, Any]) -> None: ...

    def close(self, status: str) -> None: ...


class NoTracker:
    """A tracker that does nothing: metrics.jsonl is enough."""

    def __init__(self, folder: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        pass

    def close(self, status: str) -> None:
        pass


TRACKERS: dict[str, Callable[..., Tracker]] = {"none": NoTracker, "wandb": WandbTracker}


def find(name: str) -> Callable[..., Tracker]:
    """Return the class of a tracker; a ValueError says that its name is unknown."""
    if name not in TRACKERS:
        raise ValueError(f"tracker.name={name} is not there: {nearest(name, TRACKERS)}")
    return TRACKERS[name]
