"""The config of one run: its keys, their types and ranges, and the hash that names it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conventions import older_keys
from conventions.config_keys import optimizer_label
from conventions.keywords import construct
from conventions.paths import expanded
from conventions.run_format import RUNS

# What a run is does not depend on where it is kept, how it is watched or how often it is saved.
UNHASHED = ("run_dir", "resume", "tracker", "launcher", "checkpoint", "study", "shard_optimizer")
# Where the data lie does not matter either, but before they are read nothing else tells one corpus from another.
LOCATIONS = tuple(f"data.{key}" for key in ("dir", "files", "val_files", "train", "val", "repository"))


@dataclass(frozen=True)
class Batch:
    tokens: int
    micro: int | Literal["auto"]


@dataclass(frozen=True)
class Evaluation:
    every: int
    tokens: int | None


@dataclass(frozen=True)
class Logging:
    every: int


@dataclass(frozen=True)
class Checkpointing:
    every: int | None


@dataclass(frozen=True)
class Config:
    """The keys of configs/train.yaml with their types. The groups stay mappings: what they configure checks them."""

    steps: int
    seed: int
    batch: Batch
    context: int
    grad_clip: float | None
    eval: Evaluation
    log: Logging
    checkpoint: Checkpointing
    target_loss: float | None
    init_from: str | None
    study: str
    run_dir: str | None
    resume: bool
    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    compile: bool | Literal["auto"]
    shard_optimizer: bool
    allow_targets: list[str]
    model: dict[str, Any]
    data: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    tracker: dict[str, Any]
    launcher: dict[str, Any]

    def __post_init__(self) -> None:
        for key, value in {
            "steps": self.steps,
            "context": self.context,
            "batch.tokens": self.batch.tokens,
            "batch.micro": self.batch.micro,
            "eval.every": self.eval.every,
            "eval.tokens": self.eval.tokens,
            "log.every": self.log.every,
            "checkpoint.every": self.checkpoint.every,
        }.items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        for key in ("model.name", "model.family", "data.name", "optimizer.name", "tracker.name"):
            section, _, name = key.partition(".")
            word = getattr(self, section).get(name)
            if not isinstance(word, str):
                raise ValueError(f"{key} must be a string: give {section}=<option>, which sets it")
            if not is_name(word):  # it would take the run's folder elsewhere
                raise ValueError(f"{key} must be a plain name, not {word!r}: give {section}=<option>, which sets it")
        if "_target_" in self.optimizer and self.optimizer["name"] != "external":
            raise ValueError(
                f"optimizer._target_ is for anyone's class, and the optimizer is {self.optimizer['name']}: "
                "add optimizer=external"
            )
        if not isinstance(self.optimizer.get("_target_", ""), str):
            raise ValueError("optimizer._target_ must name a class: optimizer._target_=package.module.Class")
        for key, path in (("study", self.study), ("run_dir", self.run_dir)):
            if path is not None and not path.strip():
                raise ValueError(f"{key} must be the name of a folder, not empty")
        check_study(self.study)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 2^32 - 1, not {self.seed}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip must be above 0, not {self.grad_clip}; null turns clipping off")
        if self.target_loss is not None and self.target_loss <= 0:
            raise ValueError(f"target_loss must be above 0 nats per token, not {self.target_loss:g}; null sets none")
        if self.batch.tokens % self.context:
            raise ValueError(
                f"batch.tokens={self.batch.tokens} must be a multiple of context={self.context}: "
                f"give {max(1, self.batch.tokens // self.context) * self.context}"
            )

    @property
    def sequences(self) -> int:
        """Return the sequences per update, over all ranks."""
        return self.batch.tokens // self.context


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a file or a folder, and no path to one elsewhere."""
    return text == Path(text).name and text not in ("", ".", "..")


def check_study(name: str) -> None:
    """Refuse, in a ValueError, what is not the name of one folder: a study lies in results/runs, and nowhere else."""
    if not is_name(name):
        raise ValueError(f"study must be the name of a folder under results/runs, not {name!r}; run_dir takes a path")


def whole_numbers(values: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """Return the values with integers where a count was written as 1e5 or 10.0, so that config.yaml holds a count."""

    def typed(value: Any, known: Any) -> Any:
        if isinstance(value, Mapping) and not isinstance(known, Mapping):
            return {key: typed(each, getattr(known, key, None)) for key, each in value.items()}
        return known if type(known) is int and isinstance(value, float) else value

    return {key: typed(value, getattr(cfg, key)) for key, value in values.items()}


def parse(values: Mapping[str, Any]) -> Config:
    """Check a composed and resolved config, and type it; a ValueError names the first key that is wrong."""
    return construct(Config, values, "")


def config_hash(values: Mapping[str, Any]) -> str:
    """Return 64 hex digits that depend on every key that decides what the run computes.

    A key that is younger than other runs counts only where its value says something else than what those did.
    """
    kept = {key: value for key, value in older_keys.reduced(values).items() if key not in UNHASHED}
    kept["data"] = {key: value for key, value in kept["data"].items() if key != "dir"}
    return hashlib.sha256(json.dumps(_canonical(kept), sort_keys=True).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Turn 1.0 into 1, as they are one value to whatever takes a number."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def default_run_dir(config: Config, digest: str) -> Path:
    """Name a run's folder results/runs/<study>/<model>-<data>-<optimizer>-s<seed>-<hash8>."""
    names = (config.model["name"], config.data["name"], optimizer_label(config.optimizer), f"s{config.seed}")
    return RUNS / config.study / "-".join((*names, digest[:8]))


def run_dir(config: Config, digest: str) -> Path:
    """Return the folder that the config names, or else the default one."""
    return expanded(config.run_dir, "run_dir") if config.run_dir else default_run_dir(config, digest)
