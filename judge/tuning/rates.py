"""Trials of an arm's learning rates before its runs: which keys, in which ranges, and what came of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from judge.claims.plan import RateTrials
from judge.tuning.search import Range, Space, search_space
from judge.tuning.trials import Tuning

RATE = "optimizer.lr"
TIMES = 4.0  # a rate is tried from a quarter of the claim's to four times of it: four trials at .44, .89, 1.8 and 3.6


def rate_space(optimizer: str, flat: Mapping[str, Any], keys: Sequence[str]) -> Space:
    """Return the ranges of an arm's learning rates, or of the keys that a claim's file names instead.

    flat: the arm's config, dotted. Raises ValueError for a key that is no number above 0 of the optimizer's.
    """
    if not keys:
        return _around(rates_of(flat))
    for key in keys:
        if not key.startswith("optimizer.") or type(flat.get(key)) not in (int, float) or flat[key] <= 0:
            raise ValueError(f"{key} is {flat.get(key)}: name keys of the optimizer whose value is a number above 0")
    tuned = search_space(optimizer, flat)
    return {key: tuned.get(key) or _around({key: float(flat[key])})[key] for key in keys}


def best_rates(tuning: Tuning, flat: Mapping[str, Any]) -> RateTrials:
    """Return the best rates of a tuning's trials; where all diverged, the claim's own rates."""
    tried = tuning.trials
    best = tried[0] if tried and tried[0].loss is not None else None
    rates = dict(best.settings) if best else {key: float(flat[key]) for key in tuning.space}
    at_an_end = []
    for key in tuning.space if best else ():
        values = {trial.settings[key] for trial in tried}
        at_an_end += [key] if len(values) > 1 and rates[key] in (min(values), max(values)) else []
    own = list(tuning.space) == list(rates_of(flat))
    about = "its rates" if own else " and ".join(key.removeprefix("optimizer.") for key in tuning.space)
    return RateTrials(rates, len(tried), tuning.steps // 2, about, at_an_end)


def rates_of(flat: Mapping[str, Any]) -> dict[str, float]:
    """Return the optimizer's learning rates in a dotted config; `lr` the first."""
    rates = {
        key: float(value)
        for key, value in flat.items()
        if key.startswith("optimizer.") and (key == RATE or key.endswith("_lr"))
        if type(value) in (int, float) and value > 0
    }
    return dict(sorted(rates.items(), key=lambda pair: pair[0] != RATE))


def _around(values: Mapping[str, float]) -> Space:
    return {key: Range(value / TIMES, value * TIMES) for key, value in values.items()}
