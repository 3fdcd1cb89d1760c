"""Runs that a program plans, each a whole config: what is left of them goes through train.py's own sweep."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from conventions.run_format import ENDED
from harness.config import config_hash, default_run_dir, parse
from judge.records import read_run
from scripts.study.sweep import command, run

GROUPS = ("model", "data", "optimizer", "schedule", "tracker")  # whose options the config has in it already
OF_THE_SWEEP = ("launcher", "hydra")


@dataclass(frozen=True)
class Training:
    """One run."""

    values: dict[str, Any]  # composed and resolved, run_dir in it

    @staticmethod
    def of(values: Mapping[str, Any], changes: Mapping[str, Any], folder: Path) -> "Training":
        """The config with changes to dotted keys; its folder, below `folder`, is named as every run's.

        Raises ValueError where a key's value is wrong.
        """
        changed: dict[str, Any] = copy.deepcopy(dict(values))
        for key, value in {**changes, "run_dir": None, "resume": False}.items():
            *path, last = key.split(".")
            inner = changed
            for name in path:
                inner = inner[name]
            inner[last] = value
        changed["run_dir"] = str(folder / default_run_dir(parse(changed), config_hash(changed)).name)
        return Training(changed)

    @property
    def folder(self) -> Path:
        return Path(self.values["run_dir"])

    @property
    def steps(self) -> int:
        return self.values["steps"]

    @property
    def tokens(self) -> int:
        return self.values["steps"] * self.values["batch"]["tokens"]

    @cached_property
    def name(self) -> str:
        """What it is called in a sweep's table."""
        label, _, digest = self.folder.name.rpartition("-")
        return f"{label.partition('-')[2]}-T{self.steps}-{digest}"

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do: it finished or diverged."""
        there = (self.folder / "manifest.json").is_file()
        return there and read_run(self.folder).status in ENDED

    def experiment(self) -> str:
        """It as an experiment of Hydra's, the text of a YAML: the whole config, so no group has a say in it."""
        values = {key: value for key, value in self.values.items() if key not in OF_THE_SWEEP and key != "resume"}
        defaults = [*({f"override /{group}": None} for group in GROUPS), "_self_"]
        return "# @package _global_\n" + yaml.safe_dump({"defaults": defaults, **values}, sort_keys=False)


def train_all(trainings: Sequence[Training], study: Path, overrides: Sequence[str]) -> None:
    """Train what has not ended as one sweep, the longest first; what was cut off goes on where it was.

    study: the folder that keeps the sweep's logs. overrides: launcher's and Hydra's keys.
    Raises ValueError if some run still has not ended then, and SystemExit if the sweep was interrupted.
    """
    left = sorted((each for each in trainings if not each.ended), key=lambda each: -each.tokens)
    if not left:
        return
    line, folder = command({each.name: each.experiment() for each in left}, study, overrides)
    if (code := run(line)) == 130:
        raise SystemExit(130)
    if failed := [each for each in left if not each.ended]:
        raise ValueError(
            f"{len(failed)} of {len(left)} runs did not end (exit code {code}), {failed[0].folder} for one: "
            f"{folder / 'jobs.jsonl'} says why; the same command goes on"
        )
