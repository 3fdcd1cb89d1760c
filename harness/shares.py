"""Computes what sharing an optimizer's work out would bring on so many GPUs, from what it announces, without a GPU.

Milliseconds are by an H100's data sheet: 67 TFLOP/s in float32, 450 GB/s between the 8 GPUs of a node, 50 GB/s for each
GPU between nodes. Factorisations come nowhere near such a rate, so the true saving is at least as large.
"""

from collections.abc import Sequence
from typing import NamedTuple

from conventions.grid import Grid
from harness.sharding import Shareable, owners

FLOPS, NODE = 67e12, 8
IN_NODE, BETWEEN_NODES = 450e9, 50e9  # bytes per second that a GPU sends


class Shares(NamedTuple):
    """An optimizer's work over ranks.

    work: of the rank with the most, in FLOPs.
    state_bytes: of the rank with the most.
    gradient_bytes: that a rank sends in an update, the mean over ranks, to sum the gradient: a ring sends each part
        around twice but for one step.
    weight_bytes: the same for the new weights, each of which goes once to each of the others.
    """

    work: float
    state_bytes: int
    gradient_bytes: float
    weight_bytes: float


def shares(units: Sequence[Shareable], world: int) -> Shares:
    """Share units out over so many ranks."""
    work, state = [0.0] * world, [0] * world
    for unit, rank in zip(units, owners(units, world), strict=True):
        work[rank] += unit.work
        state[rank] += unit.state_bytes
    size = sum(p.numel() * p.element_size() for unit in units for p in unit.params)
    sent = size * (world - 1) / world
    return Shares(max(work), max(state), 2 * sent, sent)


def table(units: Sequence[Shareable], worlds: Sequence[int]) -> Grid:
    """Make a table with a row for each number of ranks."""
    alone = shares(units, 1)
    rows = []
    for world in worlds:
        each = shares(units, world)
        rate = IN_NODE if world <= NODE else BETWEEN_NODES
        rows.append([
            str(world), f"{100 * each.work / alone.work:.1f} %", f"{alone.work / each.work:.2f}",
            f"{1e3 * (alone.work - each.work) / FLOPS:.3f}", f"{1e3 * each.weight_bytes / rate:.3f}",
            f"{each.state_bytes / 1e6:,.1f}", f"{100 * each.state_bytes / max(alone.state_bytes, 1):.1f} %",
            f"{each.gradient_bytes / 1e6:,.1f}", f"{each.weight_bytes / 1e6:,.1f}",
        ])  # fmt: skip
    header = [
        "ranks", "busiest rank's work", "times less", "ms saved", "ms for the weights", "fullest rank's state, MB",
        "of all state", "gradient sent, MB", "weights sent, MB",
    ]  # fmt: skip
    return Grid("", header, rows)
