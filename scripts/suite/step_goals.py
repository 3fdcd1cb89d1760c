"""What is aimed at in an optimizer's step, beside the best way of ours that was measured to it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.suite import goals
from scripts.suite.goals import MODEL, TOKENS, Goal

UNKNOWN = "no whole update was measured yet"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """Goals of one way to an optimizer's step, all to be met by the same.

    bounds: with the goal the key of a row; of `rows` in optimizers.json or, where `whole`, of its `updates`.
    keywords: that the way must have.
    """

    optimizer: str
    bounds: Sequence[tuple[Goal, str]]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


def _elementwise(name: str, what: str) -> Aim:
    return Aim(name, [(Goal(f"125M, {what}, beside fused AdamW's", "times", at_most=1.15), "times_adamw")])


def _soap(dtype: str, name: str, most: float) -> Aim:
    of_a_step = Goal(f"125M, SOAP at every 10 steps, projections in {name}, of a whole step", "share", at_most=most)
    worst = Goal(f"125M, SOAP's slowest whole step, projections in {name}, beside the median one", "times", at_most=1.1)
    bounds = [(of_a_step, "share_of_step"), (worst, "worst_over_median_step")]
    return Aim("soap", bounds, {"every": 10, "projection_dtype": dtype})


def _whole(name: str, what: str, most: float | None = None) -> Aim:
    return Aim(name, [(Goal(f"125M, {what}, beyond AdamW's", "share", at_most=most), "extra_share")], whole=True)


AIMS = [
    _elementwise("lion", "Lion's step"),
    _elementwise("sophia_g", "Sophia's step"),
    _elementwise("adahessian", "AdaHessian's step"),
    _soap("tf32", "TF32", 0.03),
    _soap("float32", "fp32", 0.06),
    Aim("muon", [(Goal("125M, Muon, of a whole step", "share", at_most=0.015), "share_of_step")]),
    Aim("shampoo", [(Goal("125M, Shampoo, of a whole step", "share", at_most=0.05), "share_of_step")]),
    _whole("sophia_g", "Sophia-G's whole update, half a batch of curvature at every 10", 0.05),
    _whole("adahessian", "AdaHessian's whole update, Hutchinson's products in it"),
    _whole("sophia_h", "Sophia-H's whole update, Hutchinson's products in it"),
    _whole("kfac", "K-FAC's whole update, its statistics in it"),
    _whole("mkor", "MKOR's whole update, its statistics in it"),
]


def table(book: Mapping[str, Any]) -> str:
    """Markdown, out of optimizers.json; empty where what was measured is none of the goals' affair."""
    identity = {**book["identity"], "tokens": book.get("tokens")}
    ours = any(row["model"] == MODEL for row in [*book["rows"], *book.get("updates", [])])
    if not ours or not goals.judged(identity, identity["device"]):
        return ""
    about = f"All at {TOKENS:,} tokens per update. Measured: of our ways to a step, compiled or not, the nearest one."
    return f"{goals.table(_found(book))}\n{about}\n"


def _found(book: Mapping[str, Any]) -> Iterator[tuple[Goal, float | None, str]]:
    for aim in AIMS:
        mine = [row for row in _rows(book, aim) if all(_value(row, key) is not None for _, key in aim.bounds)]
        best = min(mine, key=lambda row: _distance(aim, row), default=None)
        for goal, key in aim.bounds:
            yield goal, _value(best, key) if best else None, _of(best) if best else _missing(book, aim)


def _rows(book: Mapping[str, Any], aim: Aim) -> list[Row]:
    """Ours, of this model, with the keywords asked for."""
    if aim.whole:
        return [r for r in book.get("updates", []) if (r["optimizer"], r["model"], r["tokens"]) == (
            aim.optimizer, MODEL, TOKENS)]  # fmt: skip
    mine = [r for r in book["rows"] if (r["optimizer"], r["model"]) == (aim.optimizer, MODEL)]
    ours = [row for row in mine if row["implementation"].startswith("halfstep")]
    return [row for row in ours if aim.keywords.items() <= row["keywords"].items()]


def _value(row: Row, key: str) -> float | None:
    if key == "times_adamw":
        return float(row["ratio"]["median"])
    if key in ("share_of_step", "worst_over_median_step") and row.get("step_tokens") != TOKENS:
        return None
    return row.get(key)


def _distance(aim: Aim, row: Row) -> float:
    """The worst of the values, each as a share of its bound; where there is none, the value."""
    found = [(_value(row, key), goal.at_most) for goal, key in aim.bounds]
    return max((value / (most or 1.0) for value, most in found if value is not None), default=math.inf)


def _of(row: Row) -> str:
    way = " ".join(f"{key}={value}" for key, value in row.get("way", {}).items()) or "as its YAML has it"
    compiled = ", compiled" if row.get("compiled") else ""
    return f"{way}{compiled}, {row['rounds']} rounds"


def _missing(book: Mapping[str, Any], aim: Aim) -> str:
    mine = _rows(book, aim)
    failed = [str(row["error"]) for row in mine if row.get("error")]
    return failed[0] if failed else UNKNOWN if mine else ""
