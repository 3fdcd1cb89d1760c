"""The device of a run: which one `auto` stands for, its dtype and compiler, and its peak for MFU."""

import atexit
import os
import platform
import random
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conventions.sentence import nearest

# Dense bf16 FLOP/s with fp32 accumulation, by NVIDIA's data sheets; the first name that the device's contains counts.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}

DEVICES = ("auto", "cpu", "cuda")
GRAPHS = 64  # of one function that the compiler may make: a shape, a kind of hooks, a curvature pass are one each


def resolve_device(device: str) -> str:
    """Resolve `auto` to CUDA where there is one. Raises ValueError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        hint = "" if kind in DEVICES else f": {nearest(kind, DEVICES)}"
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, not {device}{hint}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device}: torch finds no CUDA device here; give device=cpu, or install torch's CUDA build"
        )
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Resolve `auto` to bfloat16 on a CUDA device that has it in hardware, float32 elsewhere."""
    if dtype == "auto":
        fast = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if fast else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def resolve_compile(wanted: bool | str, device: str) -> bool:
    """Resolve `auto`, which compiles on CUDA alone: a minute of compilation buys next to nothing on a CPU."""
    return device.startswith("cuda") if wanted == "auto" else bool(wanted)


def compiled(model: nn.Module) -> Callable[..., Tensor]:
    """Compile a model by torch.compile. The runs of one process share a graph wherever their models are alike.

    Hooks count in that: by default the compiler does not look at them, and an optimizer that has some would get the
    graph of the run before, which calls none. Nor does it say so where a process has more graphs than its limit, and it
    goes on without compiling.
    """
    config = torch._dynamo.config
    config.skip_nnmodule_hook_guards = False
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    leave_at_once()
    return torch.compile(model, dynamic=False)


@cache
def leave_at_once() -> None:
    """End torch's compile workers at exit: torch before 2.13 may wait five minutes for them (pytorch issue 162199)."""
    from torch._inductor import async_compile  # its own handler is registered, and so runs after ours

    atexit.register(_end_workers, async_compile._pool_set)


def _end_workers(pools: Iterable[Any]) -> None:
    for pool in pools:
        if process := getattr(pool, "process", None):  # of workers; other pools end by themselves
            pool.running = False  # then nobody waits for it or complains
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            listed = workers.read_text().split() if workers.exists() else []  # else they see it within a minute
            process.kill()
            process.wait()
            for worker in listed:
                with suppress(ProcessLookupError):
                    os.kill(int(worker), signal.SIGKILL)


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_flops(device: str) -> float | None:
    """Return the dense bf16 FLOP/s of a known GPU, None for any other device: no MFU is better than a wrong one."""
    name = device_name(device)
    if not device.startswith("cuda"):
        return None
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def describe(device: str) -> dict[str, Any]:
    """Return the device's entry in the manifest."""
    return {
        "type": device.partition(":")[0],
        "name": device_name(device),
        "count": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": torch.get_num_threads(),
        "peak_flops": peak_flops(device),
    }


def reset_peak_memory(device: str) -> None:
    """Begin `peak_memory` anew, without what ran before: another run of the sweep, or a pass that did not fit."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> int:
    """Return the most bytes that tensors held on a CUDA device, or that the process held on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if platform.system() == "Darwin" else 1024)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python, from which classes of other packages draw."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
