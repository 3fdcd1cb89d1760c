"""Trains nothing: run folders as a sweep would have left them, with losses that follow a known law of the rate."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from conventions.planned_run import PlannedRun
from tests.study import write_run

TrainAll = Callable[[Sequence[PlannedRun], Path, Sequence[str]], None]


class Pretended:
    """In place of train_all.

    optimum: the best learning rate. limit: above it a run diverges. speedups: of an optimizer at its best rate.
    """

    def __init__(
        self, optimum: float = 0.01, limit: float = math.inf, speedups: dict[str, float] | None = None
    ) -> None:
        self.optimum, self.limit, self.speedups = optimum, limit, speedups or {}
        self.trained: list[PlannedRun] = []
        self.machine: dict[str, Any] = {}  # what manifests say of it, dotted

    def __call__(self, trainings: Sequence[PlannedRun], study: Path, overrides: Sequence[str]) -> None:
        for each in trainings:
            if not each.ended:
                self.trained.append(each)
                self.write(each)

    def speed(self, training: PlannedRun) -> float:
        """The law's, at this run's rate."""
        section = training.config["optimizer"]
        most = self.speedups.get(str(section.get("_target_") or section["name"]), 1.0)
        return most * math.exp(-0.2 * math.log(section["lr"] / self.optimum) ** 2)

    def write(self, training: PlannedRun) -> None:
        values, place, fast = training.config, training.folder, self.speed(training)
        lost = {"status": "diverged", "until": 5} if values["optimizer"]["lr"] > self.limit else {}
        tokens = values["batch"]["tokens"]
        written = write_run(
            place.parent / ".writing", "x", values["steps"], values["seed"], noise=0.002,
            manifest={"study": values["study"], "tokens_per_step": tokens, "name": place.name, **self.machine},
            speedup=fast, **lost,
        )  # fmt: skip
        (written / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        shutil.move(written, place)
        shutil.rmtree(place.parent / ".writing")
