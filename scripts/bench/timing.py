"""Seconds of a call, what a few of them come to, and the rate of a device's best matrix products."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch


class Place(Protocol):
    """Where something is timed."""

    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def wait(self) -> None: ...  # until the device has done all it was given


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def timed(setting: Place, function: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of a call, the least of a few: on a machine that is shared, the one that was disturbed the least."""
    seconds = []
    for _ in range(repeats):
        setting.wait()
        start = time.perf_counter()
        function()
        setting.wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def best_products(setting: Place, sizes: Sequence[int] = ()) -> float:
    """FLOP/s of the fastest of a few matrix products, with halfstep's kernels, in the run's dtype."""
    best = 0.0
    for n in sizes or (512, 1024, 2048, 4096 if setting.device == "cpu" else 8192):
        a, b = (torch.randn(n, n, device=setting.device, dtype=setting.dtype) for _ in range(2))
        best = max(best, 2 * n**3 / timed(setting, partial(torch.matmul, a, b)))
    return best
