"""What an optimizer does with a parameter, said before its first step: the rule, the state, the matrix work."""

from typing import NamedTuple

from torch import Tensor

from optimizers.base import state_dtype


class Treatment(NamedTuple):
    """What one parameter gets.

    rule: in a few words.
    state_bytes: kept from step to step.
    flops: of matrix work in a step, the mean over a period of refreshes; elementwise work is charged to nobody.
    """

    rule: str
    state_bytes: int
    flops: float = 0.0


def treatment(p: Tensor, rule: str, numbers: int = 0, counts: int = 0, flops: float = 0.0) -> Treatment:
    """Of a state of so many numbers in the state's dtype and so many counts of updates, 4 bytes each."""
    return Treatment(rule, numbers * state_dtype(p).itemsize + 4 * counts, flops)
