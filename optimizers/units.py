"""A unit is what one rank can update by itself: a parameter, or several whose updates depend on one another."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from .param_groups import trainable
from .registry import OptimizerInfo

# What an H100 computes in float32 while it moves one byte: 67 TFLOP/s over 3.35 TB/s, by its data sheet.
FLOPS_PER_BYTE = 20.0


class Unit(NamedTuple):
    """The parameters of a unit, and what they cost.

    work: of a mean step, in FLOPs; a byte that elementwise work moves counts as FLOPS_PER_BYTE of them.
    state_bytes: kept from step to step.
    """

    params: tuple[Tensor, ...]
    work: float
    state_bytes: int


def units(info: OptimizerInfo, optimizer: Any, model: nn.Module, tokens: int) -> list[Unit]:
    """Return the units of an optimizer in the model's order, for a batch of so many tokens.

    Of a class that announces no treatment each parameter costs what Adam's step does.
    """
    treatments = info.treatments(optimizer, model, tokens)
    costs: dict[Tensor, tuple[float, int]] = {}
    for name, p in trainable(model):
        if treatments is None:
            size = max(4, p.element_size()) * p.numel()
            costs[p] = (FLOPS_PER_BYTE * 7 * size, 2 * size)
        else:
            found = treatments[name]
            costs[p] = (found.flops + FLOPS_PER_BYTE * found.moved_bytes, found.state_bytes)
    joined = {p: tuple(unit) for unit in getattr(optimizer, "together", list)() for p in unit}
    members = dict.fromkeys(joined.get(p, (p,)) for p in costs)
    return [Unit(m, sum(costs[p][0] for p in m), sum(costs[p][1] for p in m)) for m in members]
