"""The rate of a device's best matrix products, by precision: what throughput and steps are held against."""

import time
from typing import Any

import torch

from harness.kernels import choose_kernels

REPEATS = 10


def products(device: str, context: int) -> dict[str, Any]:
    """Measure flops_per_second, of the best of a few square products. tf32 is float32 with its switch on."""
    choose_kernels(device, context)
    cuda, usual = device.startswith("cuda"), torch.get_float32_matmul_precision()
    sizes = (1024, 2048, 4096, 8192) if cuda else (512, 1024, 2048)
    rates = {}
    for precision in ("bfloat16", "tf32", "float32") if cuda else ("float32",):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else usual)
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        rates[precision] = max(2 * n**3 / seconds(n, dtype, device) for n in sizes)
    return {"flops_per_second": rates}


def seconds(n: int, dtype: torch.dtype, device: str) -> float:
    """Time a product of two (n, n) matrices: the least of a few, which other programs disturbed the least."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(REPEATS):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def wait(device: str) -> None:
    """Wait until the device has done all its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
