"""The space that a tuning searches: a range for each key of the config, and quasi-random points in them.

space = search_space("soap", {"optimizer.lr": 3e-3, "optimizer.betas": [0.95, 0.95], "schedule.warmup": 0.1})
settings(space, trials=8)    # [{"optimizer.lr": 1.7e-3, "optimizer.betas[1]": 0.98, ...}, ...]

The ranges are data: configs/tuning.yaml, which says how to read them. Nothing here knows an optimizer.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from conventions.config_keys import CONFIGS
from conventions.keywords import construct
from conventions.sentence import nearest
from conventions.yaml_file import read_yaml

RANGES = CONFIGS / "tuning.yaml"
DIGITS = 3  # of a value that is tried: nobody can tell closer ones apart
EDGE = 0.05  # of a range, on its own scale: an optimum this close to its end may well lie beyond it
WIDER = 4.0  # times what it reached, is what a range is advised to reach


@dataclass(frozen=True)
class Range:
    """The values that one key may take, and the scale on which trials spread over them."""

    low: float
    high: float
    scale: Literal["log", "decay", "linear"] = "log"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low} against {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low must be above 0 on a log scale, not {self.low}")
        if self.scale == "decay" and not 0 <= self.low < self.high < 1:
            raise ValueError(f"low and high must be at least 0 and below 1 of a decay, not {self.low} and {self.high}")

    def at(self, share: float) -> float:
        """Return the value that lies so far, 0 to 1 (or beyond), from low to high."""
        low, high = self._flat(self.low), self._flat(self.high)
        value = self._flat_back(low + share * (high - low))
        return round(1 - _rounded(1 - value), 8) if self.scale == "decay" else _rounded(value)

    def share(self, value: float) -> float:
        """Return how far from low to high a value lies, 0 to 1; outside the range it is below 0 or above 1."""
        low, high = self._flat(self.low), self._flat(self.high)
        return (self._flat(value) - low) / (high - low)

    def wider(self, upwards: bool) -> "Range":
        """Return a range that goes further at one end."""
        if self.scale == "linear":
            more = self.high - self.low
            return replace(self, high=self.high + more) if upwards else replace(self, low=self.low - more)
        if self.scale == "decay":  # up is towards 1
            closer, further = 1 - (1 - self.high) / WIDER, max(0.0, 1 - (1 - self.low) * WIDER)
            return replace(self, high=_rounded(closer, 5)) if upwards else replace(self, low=_rounded(further))
        lower, higher = _rounded(self.low / WIDER), _rounded(self.high * WIDER)
        return replace(self, high=higher) if upwards else replace(self, low=lower)

    def _flat(self, value: float) -> float:
        """Return the value on the scale on which trials are spread evenly; one without a place there lies below all."""
        if self.scale == "log" and value <= 0:
            return -math.inf
        return {"log": math.log, "decay": lambda v: -math.log(1 - v), "linear": float}[self.scale](value)

    def _flat_back(self, value: float) -> float:
        return {"log": math.exp, "decay": lambda v: 1 - math.exp(-v), "linear": float}[self.scale](value)


Space = dict[str, Range]


Wanted = Mapping[str, Sequence[float]]


def search_space(optimizer: str, values: Mapping[str, Any], wanted: Wanted | None = None) -> Space:
    """Return the ranges of an optimizer's keys, in the order of configs/tuning.yaml.

    Args:
        optimizer: a registered name, or the class path of an external one.
        values: what the config or else the constructor's own default gives each key, dotted.
        wanted: {key: [low, high]} that a person gives instead.

    Raises ValueError for a range that is none, or of a key that is not there.
    """
    entries = _ranges(optimizer)
    space = {}
    for key, entry in entries.items():
        start = value_of(values, key)
        if entry is None or (start is None and "start" not in entry):
            continue
        space[key] = construct(_range, entry, f"{RANGES.name}: {key}", start)
    for key, ends in (wanted or {}).items():
        if key not in entries and value_of(values, key) is None:
            raise ValueError(f"range.{key}: there is no such key to search: {nearest(key, {*space, *values})}")
        try:
            low, high = map(float, list(ends))
        except (TypeError, ValueError):
            raise ValueError(f"range.{key} must be [low, high], not {ends}") from None
        old = space.get(key)
        try:
            space[key] = Range(low, high, old.scale if old else "log" if low > 0 else "linear")
        except ValueError as error:
            raise ValueError(f"range.{key}: {error}") from None
    if not space:
        raise ValueError(f"{optimizer} has none of the keys that {RANGES} searches: give range.<key>=[low,high]")
    return space


def settings(space: Space, trials: int) -> list[dict[str, float]]:
    """Draw quasi-random settings: the first n of m are those of n, and equal spaces get equal shares."""
    from scipy.stats import qmc  # here: it takes a second, and who only reads what was tuned need not wait for it

    points = qmc.Halton(len(space), scramble=True, rng=np.random.default_rng(0)).random(trials)  # (trials, keys)
    return [
        {key: each.at(float(share)) for (key, each), share in zip(space.items(), point, strict=True)}
        for point in points
    ]


def neighbours(space: Space, best: Mapping[str, float], trials: int) -> list[dict[str, float]]:
    """Return the best, and beside it on its first key, the learning rate, what lies a trial's distance below and above.

    They may leave the range: that is how an optimum on its edge is found out.
    """
    key, each = next(iter(space.items()))
    share = each.share(best[key])
    return [dict(best), *({**best, key: each.at(share + step / trials)} for step in (-1, 1))]


def value_of(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, or of an entry of its list (`optimizer.betas[1]`); None where there is none."""
    name, index = _split(key)
    value = values.get(name)
    if index is None:
        return value
    return value[index] if isinstance(value, (list, tuple)) and index < len(value) else None


def apply(values: Mapping[str, Any], chosen: Mapping[str, float]) -> dict[str, Any]:
    """Return {dotted key: value} that puts the chosen values in, lists whole. `values`: dotted, before the choice."""
    changed: dict[str, Any] = {}
    for key, value in chosen.items():
        name, index = _split(key)
        if index is None:
            changed[name] = value
        else:
            items = list(changed.get(name, values[name]) or [])  # null: each entry is left to the optimizer
            items += [None] * (index + 1 - len(items))
            items[index] = value
            changed[name] = items
    return changed


def _ranges(optimizer: str) -> dict[str, Any]:
    """Return the optimizer's own entries, then the default's; the first is its learning rate, or what stands for it."""
    sections = read_yaml(RANGES)
    own = sections.get(optimizer) or {}
    merged = {**own, **{key: entry for key, entry in sections["default"].items() if key not in own}}
    return {key: entry for key, entry in merged.items() if entry is not None}


def _range(
    around: Any,
    scale: Literal["log", "decay", "linear"] = "log",
    low: float | None = None,
    high: float | None = None,
    times: float | None = None,
    start: float | None = None,
) -> Range:
    """Return a range as configs/tuning.yaml writes it. start: where the config's null stands for a value."""
    if times is not None:
        return Range(_rounded(around / times), _rounded(around * times), scale)
    if low is None or high is None:
        raise ValueError("low and high must be given, or times")
    return Range(low, high, scale)


def _split(key: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)\[(\d+)\]", key)
    return (match[1], int(match[2])) if match else (key, None)


def _rounded(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")
