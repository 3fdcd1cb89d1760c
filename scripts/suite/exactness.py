"""How exact the quick ways of optimizers are: their drift from float64, and orthogonality of their bases."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench.drift import Bed, Way, drift
from scripts.bench.side import Side
from scripts.suite.folder import Cell, markdown

CUDA_ALONE = ("tf32", "triton")


@dataclass(frozen=True)
class Ways:
    """exact: keywords of the reference, which is in float64. quick: those of each way, the plain one among them."""

    optimizer: str
    exact: Way
    quick: list[Way]


# K-FAC has no way of fewer bits. Staggered refreshes are other ones: they have a reference that staggers them too.
WAYS = [
    Ways("soap", {"stagger": "true"}, [{"stagger": "true", **way} for way in (
        {}, {"projection_dtype": "tf32"}, {"projection_dtype": "tf32", "qr": "cholesky"},
        {"projection_dtype": "tf32", "qr": "cholesky", "gram": "triton"}, {"projection_dtype": "bfloat16"},
    )]),
    Ways("shampoo", {}, [{}]),
    Ways("muon", {"ns_dtype": "float64"}, [{"ns_dtype": "float32"}, {"ns_dtype": "bfloat16"}]),
]  # fmt: skip


def asked(bed: Bed, only: Sequence[str]) -> list[tuple[Ways, Way]]:
    """Those that the device has."""
    found = [(ways, way) for ways in WAYS if not only or ways.optimizer in only for way in ways.quick]
    return [(ways, way) for ways, way in found if bed.device != "cpu" or not set(way.values()) & set(CUDA_ALONE)]


def measure(bed: Bed, ways: Ways, way: Way, seconds: float, late: str) -> list[dict[str, Any]]:
    """Its row, measured in a process of its own; where the time does not reach one with the error `late`, or none."""
    try:
        with Side(_nobody) as one:
            return [finite(row) for row in one.ask(seconds, drift, bed, ways.optimizer, ways.exact, [way])]
    except TimeoutError:
        error = late
    except ValueError as failure:
        error = str(failure)
    return [{"optimizer": ways.optimizer, "way": way, "error": error}] if error else []


def done(ways: Ways, way: Way, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any((row["optimizer"], row["way"]) == (ways.optimizer, way) for row in rows)


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """None for what is no finite number, which JSON has no word for, and an error that says so."""
    lost = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**row, **dict.fromkeys(lost), "error": f"not finite: {', '.join(lost)}"} if lost else row


def shown(optimizer: str, way: Mapping[str, str]) -> str:
    return " ".join([optimizer, *(f"{key}={value}" for key, value in way.items())])


def _nobody() -> None:
    """The process has no contender: it is there to be asked once, and to have its own memory and switches."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; empty where nothing was measured."""
    if not rows:
        return ""

    def small(key: str) -> Callable[[Any], str]:
        return lambda row: "" if row.get(key) is None else f"{row[key]:.1e}"

    columns: dict[str, Cell] = {
        "optimizer": lambda row: shown(row["optimizer"], row["way"]),
        "updates": "updates", "drift of the last update": small("drift"), "the largest": small("largest"),
        "largest entry of Q^T Q - I": small("skew"), "": "error",
    }  # fmt: skip
    return (
        "\nDrift: the 2-norm of an update less the same in float64, as a share of that one, from the same state at the "
        "second update on, on the same weights and gradients; what float32 itself drifts stands first.\n\n"
        f"{markdown(columns, rows)}"
    )
