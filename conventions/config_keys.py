"""The keys of a run's config: where they are defined, dotted names for them, and how values are printed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config to dotted keys: {"optimizer": {"lr": 1}} becomes {"optimizer.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differing_keys(many: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all of these flat configs; a missing key counts as null."""
    keys = sorted({key for one in many for key in one})
    return [key for key in keys if any(one.get(key) != many[0].get(key) for one in many[1:])]


def within(key: str, sections: Iterable[str]) -> bool:
    """Return whether a dotted key is one of these sections or lies inside one of them."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def plain(value: Any) -> str:
    """Return a config value as a person would write it."""
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def optimizer_name(section: Mapping[str, Any]) -> str:
    """Return the name by which runs call their optimizer: the registered one, or an external class's path.

    A class that wraps another is another optimizer with each base: `package.Lookahead over torch.optim.AdamW`.
    """
    name, base = str(section.get("_target_") or section["name"]), section.get("base")
    return f"{name} over {optimizer_name(base)}" if isinstance(base, Mapping) and "_target_" in base else name


def optimizer_label(section: Mapping[str, Any]) -> str:
    """Return the registered name, or an external class's own in lower case."""
    target = section.get("_target_")
    return str(target).rpartition(".")[2].lower() if target else str(section["name"])


def tokenizer_label(name: str) -> str:
    """Return a tokenizer's name without the way to its folder: `hf:t5` of `hf:/a/b/t5`."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{Path(path).name}" if colon else name
