"""The parts of an update's time, as the profiler measures them in one update; they add up to the whole.

Each operation's own time is counted once, under the first kind whose pattern its name matches; `between` is what no
operation has, on a GPU the time in which it stood idle.
"""

import re
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# On a GPU these are names of kernels, in which the compiler lists what it has fused.
KINDS = {
    "attention": r"attention|flash|fmha|sdpa|bmm|(?<!log)_softmax",
    "loss": r"log_softmax|nll_loss|cross_entropy|BlockwiseLoss",
    "products": r"\b(add)?mm\b|gemm|nvjet|cutlass|linear\b",
    "norm and GELU": r"layer_norm|gelu|layernorm",
    "clip and update": r"adam|foreach|Optimizer|optimizers?_|vector_norm|clip",
}
OTHER, BETWEEN = "other operations", "between"


def profiled(update: Callable[[], float], device: str) -> dict[str, float]:
    """Return the seconds of each part of an update, `whole` their sum.

    update: makes one and returns its seconds.
    """
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        whole = update()
    parts = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiler.key_averages():
        if cuda != (event.device_type == DeviceType.CUDA) or getattr(event, "is_user_annotation", False):
            continue
        kind = next((name for name, pattern in KINDS.items() if re.search(pattern, event.key)), OTHER)
        parts[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    busy = sum(parts.values())
    return {**parts, BETWEEN: max(0.0, whole - busy), "whole": max(whole, busy)}
