"""The least that an optimizer's step takes: its memory traffic and its matrix work at rates that the device reaches.

The traffic goes at the bandwidth that fused AdamW reached beside it, the work at the rate of the best product in its
precision. The two are added, for a matrix's products wait for its gradient and its weights for the products; a step
that moves one matrix's moments while it multiplies another's could get below that, by the smaller of the two at most.
It is a bound from below in all else: intermediate results, launches, factors and bases, what a QR and an eigh have
beyond the products of their FLOPs, and hooks count for nothing.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from optimizers import OptimizerInfo
from optimizers.base import state_dtype
from scripts.bench.timing import best_products

ADAMW_BYTES = 28  # a parameter in float32: the gradient read, the weight and two moments read and written
SIZES = (512, 1024, 2048)  # of a CPU's products: larger ones are no quicker, and take seconds


@dataclass(frozen=True)
class Work:
    """Of a mean step over a period of refreshes.

    moved: bytes.
    flops: of matrix work, by precision.
    """

    moved: float
    flops: Mapping[str, float]


@dataclass(frozen=True)
class _Given:
    device: str
    dtype: torch.dtype

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def work(info: OptimizerInfo, optimizer: torch.optim.Optimizer, model: nn.Module) -> Work | None:
    """What the optimizer announces of all parameters; None: it announces nothing."""
    treatments = info.treatments(optimizer, model, tokens=0)  # those of a pass are its hooks' affair
    if treatments is None:
        return None
    flops: dict[str, float] = defaultdict(float)
    for name, p in model.named_parameters():
        if found := treatments.get(name):
            flops[found.precision] += found.precision_flops
            flops[str(state_dtype(p)).removeprefix("torch.")] += found.flops - found.precision_flops
    moved = sum(found.moved_bytes for found in treatments.values())
    return Work(moved, {precision: count for precision, count in flops.items() if count})


def floor(least: Work | None, bandwidth: float, rates: Mapping[str, float]) -> dict[str, Any]:
    """What a row says of it: `floor_ms`, and in `floor_of` what that is made of; None: it is unknown.

    Args:
        bandwidth: bytes/s.
        rates: FLOP/s by precision.
    """
    if least is None:
        return {"floor_ms": None, "floor_of": None}
    memory = 1e3 * least.moved / bandwidth
    products = sum(1e3 * flops / rates[precision] for precision, flops in least.flops.items())
    made_of = {
        "memory_ms": memory, "products_ms": products, "moved_bytes": least.moved, "bytes_per_second": bandwidth,
        "flops": dict(least.flops), "flops_per_second": dict(rates),
    }  # fmt: skip
    return {"floor_ms": memory + products, "floor_of": made_of}


@cache
def product_rate(device: str, precision: str) -> float:
    """FLOP/s of the best of a few products. tf32 is float32 with its switch on; the others are torch's dtypes."""
    measured = partial(best_products, sizes=SIZES if device == "cpu" else ())
    if precision != "tf32":
        return measured(_Given(device, getattr(torch, precision)))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return measured(_Given(device, torch.float32))
    finally:
        torch.set_float32_matmul_precision(before)
