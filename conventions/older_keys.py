"""Keys that are younger than a run: configs/older_keys.yaml says what a run did whose config has no such key yet."""

import functools
from collections.abc import Mapping
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.yaml_file import read_yaml


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with the keys that its optimizer has got since, at the values that say what the run did."""
    section = config["optimizer"]
    older = {key: value for key, value in _of(section).items() if key not in section}
    return {**config, "optimizer": {**section, **older}}


def reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys whose values say what older runs did: what a run is named for."""
    section, absent = config["optimizer"], object()
    older = _of(section)
    return {**config, "optimizer": {key: v for key, v in section.items() if older.get(key, absent) != v}}


def _of(section: Mapping[str, Any]) -> dict[str, Any]:
    return _table().get(str(section.get("name")), {})


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return read_yaml(CONFIGS / "older_keys.yaml")
