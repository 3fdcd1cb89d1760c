"""Keys that are younger than a run: configs/older_keys.yaml says what a run did whose config has no such key yet."""

import functools
from collections.abc import Mapping
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.yaml_file import read_yaml


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with the keys that have come since, at the values that say what the run did."""
    section, model = config["optimizer"], {**_table()["model"], **config["model"]}
    return {**_table()["run"], **config, "model": model, "optimizer": {**_of(section), **section}}


def reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys whose values say what older runs did: what a run is named for.

    Keys of every optimizer are such keys too; no config need have them, so that `completed` does not add them.
    """
    section = config["optimizer"]
    return {
        **_without(config, _table()["run"]),
        "model": _without(config["model"], _table()["model"]),
        "optimizer": _without(section, {**_table()["optimizer"], **_of(section)}),
    }


def _without(section: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    absent = object()
    return {key: value for key, value in section.items() if older.get(key, absent) != value}


def _of(section: Mapping[str, Any]) -> dict[str, Any]:
    return _table().get(str(section.get("name")), {})


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return read_yaml(CONFIGS / "older_keys.yaml")
