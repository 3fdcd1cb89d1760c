"""A treatment announces what an optimizer will do with a parameter: the rule, the state, the work."""

from typing import NamedTuple

from torch import Tensor

from .base import state_dtype


class Treatment(NamedTuple):
    """The treatment of one parameter.

    rule: in a few words.
    state_bytes: kept from step to step.
    flops: of matrix work in a step, the mean over a period of refreshes; elementwise work is charged to nobody.
    moved_bytes: that elementwise work moves in a mean step at the least, were it one pass: the gradient and the weight
        read, the weight written, and of state and estimates what that pass reads and writes. Factors and bases are not
        in it, as products read and write them; neither is what lies between two operations.
    precision: of those products for which a keyword sets it: float32, tf32, bfloat16; the others have the state's.
    precision_flops: of those, within `flops`.
    """

    rule: str
    state_bytes: int
    flops: float = 0.0
    moved_bytes: float = 0.0
    precision: str = ""
    precision_flops: float = 0.0


def treatment(
    p: Tensor,
    rule: str,
    numbers: int = 0,
    counts: int = 0,
    flops: float = 0.0,
    moved: float | None = None,
    precision: str = "",
    precision_flops: float = 0.0,
) -> Treatment:
    """Build the treatment of a parameter whose state has `numbers` in its dtype and `counts` of updates, 4 bytes each.

    moved: numbers of state that elementwise work reads, and those that it writes; None: each is read and written.
    """
    size = state_dtype(p).itemsize
    moved_bytes = least_moved(p, size * (2 * numbers if moved is None else moved))
    return Treatment(rule, numbers * size + 4 * counts, flops, moved_bytes, precision, precision_flops)


def least_moved(p: Tensor, state_bytes: float) -> float:
    """Return the bytes of reading gradient and weight and writing the weight, and so many bytes of state."""
    return 3 * p.numel() * p.dtype.itemsize + state_bytes
