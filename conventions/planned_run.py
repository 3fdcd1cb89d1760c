"""A run before it has begun: its whole config, the folder that it will have, and its text for a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.run_format import ENDED, read_status
from conventions.yaml_file import hydra_yaml_text

GROUPS = ("model", "data", "optimizer", "schedule", "tracker")  # of configs/: the config has their options in it
OF_THE_SWEEP = ("launcher", "hydra", "resume")


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run that a program plans.

    Attributes:
        name: what a sweep's table calls it; different for every run of a sweep.
        config: composed and resolved, with run_dir in it.
    """

    name: str
    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.config["run_dir"])

    @property
    def steps(self) -> int:
        """Return how many updates the run makes."""
        return int(self.config["steps"])

    @property
    def tokens(self) -> int:
        """Return how many tokens the run trains on."""
        return self.steps * int(self.config["batch"]["tokens"])

    @property
    def ended(self) -> bool:
        """Return whether nothing is left to do: the run finished or diverged."""
        return read_status(self.folder) in ENDED

    def experiment(self) -> str:
        """Write the run as the YAML of a Hydra experiment: the whole config, so that no config group changes it."""
        values = {key: value for key, value in self.config.items() if key not in OF_THE_SWEEP}
        defaults = [*({f"override /{group}": None} for group in GROUPS), "_self_"]
        return "# @package _global_\n" + hydra_yaml_text({"defaults": defaults, **values})
