"""How exact the quick ways of optimizers are: their drift from float64, and orthogonality of their bases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench.drift import Bed, Way, drift
from scripts.bench.side import Side
from scripts.suite.folder import Cell, Deadline, markdown

CUDA_ALONE = ("tf32", "triton")


@dataclass(frozen=True)
class Ways:
    """exact: keywords of the reference, which is in float64. quick: those of each way, the plain one among them."""

    optimizer: str
    exact: Way
    quick: list[Way]


# K-FAC has no way of fewer bits.
WAYS = [
    Ways("soap", {}, [
        {}, {"projection_dtype": "tf32"}, {"projection_dtype": "bfloat16"}, {"qr": "cholesky"}, {"gram": "triton"},
        {"projection_dtype": "tf32", "qr": "cholesky", "gram": "triton"},
    ]),
    Ways("shampoo", {}, [{}]),
    Ways("muon", {"ns_dtype": "float64"}, [{"ns_dtype": "float32"}, {"ns_dtype": "bfloat16"}]),
]  # fmt: skip


def measure(
    bed: Bed, only: Sequence[str], book: dict[str, Any], deadline: Deadline, reserve: float, say: Callable[[str], None]
) -> int:
    """Add rows to the book's `drift`, an optimizer at a time, each in a process of its own. How many are left."""
    left = [ways for ways in WAYS if (not only or ways.optimizer in only) and not _done(ways, book)]
    for ways in left:
        if deadline.left < reserve + 30:
            break
        say(f"{ways.optimizer}: drift from float64 over {bed.updates} updates")
        quick = [way for way in ways.quick if bed.device != "cpu" or not set(way.values()) & set(CUDA_ALONE)]
        try:
            with Side(_nobody) as one:
                book["drift"] += one.ask(deadline.left - reserve, drift, bed, ways.optimizer, ways.exact, quick)
        except TimeoutError:
            break
        except ValueError as error:
            book["drift"].append({"optimizer": ways.optimizer, "way": {}, "error": str(error)})
    return sum(not _done(ways, book) for ways in left)


def _done(ways: Ways, book: dict[str, Any]) -> bool:
    return any(row["optimizer"] == ways.optimizer for row in book["drift"])


def _nobody() -> None:
    """The process has no contender: it is there to be asked once, and to have its own memory and switches."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; empty where nothing was measured."""
    if not rows:
        return ""

    def small(key: str) -> Callable[[Any], str]:
        return lambda row: "" if row.get(key) is None else f"{row[key]:.1e}"

    columns: dict[str, Cell] = {
        "optimizer": lambda row: " ".join([row["optimizer"], *(f"{k}={v}" for k, v in row["way"].items())]),
        "updates": "updates", "drift of the last update": small("drift"), "the largest": small("largest"),
        "largest entry of Q^T Q - I": small("skew"), "": "error",
    }  # fmt: skip
    return (
        "\nDrift: the 2-norm of an update less the same in float64, as a share of that one, from the same state at the "
        "second update on, on the same weights and gradients; what float32 itself drifts stands first.\n\n"
        f"{markdown(columns, rows)}"
    )
