"""Mirrors of metrics.jsonl, chosen by the config group `tracker`. A mirror that fails never stops the run."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.sentence import nearest

AXES = ("step", "tokens", "flops/total", "seconds/total")


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


class WandbTracker:
    """Weights & Biases. The run's id is made of its name, so that a resumed run goes on in the same chart."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        manifest: dict[str, Any],
        project: str = "halfstep",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
        group: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        labels = {section: config[section]["name"] for section in ("model", "data", "optimizer")}
        self._run: Any = None
        options = {
            "project": project,
            "entity": entity,
            "group": group or f"{manifest['study']}/{labels['optimizer']}",
            "name": manifest["name"],
            "id": hashlib.sha256(f"{manifest['study']}/{manifest['name']}".encode()).hexdigest()[:16],
            "tags": [*labels.values(), *(tags or [])],
            "config": {**config, "manifest": manifest},
            "dir": str(folder),
            "resume": "allow",
        }
        self._guard(lambda: self._start(options, mode))
        if (
            self._run is None and mode == "online"
        ):  # no key, no network: what is kept offline can be synced later
            self._guard(lambda: self._start(options, "offline"))

    def _start(self, options: dict[str, Any], mode: str) -> None:
        import wandb

        settings = wandb.Settings(init_timeout=15, silent=True, console="off")
        run = wandb.init(**options, mode=mode, settings=settings)  # type: ignore[arg-type]
        for axis in AXES:
            run.define_metric(axis)
        # One step metric is the default; any chart can take another of AXES as its x-axis, since all are logged.
        run.define_metric("*", step_metric="step")
        run.define_metric("val/loss", step_metric="step", summary="min")
        self._run = run

    def log(self, row: dict[str, Any]) -> None:
        if self._run is not None:
            values = {key: value for key, value in row.items() if value is not None}
            self._guard(lambda: self._run.log(values, step=row["step"]))

    def close(self, status: str) -> None:
        if self._run is not None:
            self._guard(lambda: self._finish(status))

    def _finish(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("finished", "diverged") else 1)

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever W&B's client throws: metrics.jsonl has it all
            first = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"W&B failed and the run goes on without it: {first}", stacklevel=3)
            self._run = None


TRACKERS: dict[str, Callable[..., Tracker]] = {"none": NoTracker, "wandb": WandbTracker}


def find(name: str) -> Callable[..., Tracker]:
    """A tracker's class; ValueError for an unknown one."""
    if name not in TRACKERS:
        raise ValueError(f"tracker.name={name} is not there: {nearest(name, TRACKERS)}")
    return TRACKERS[name]
