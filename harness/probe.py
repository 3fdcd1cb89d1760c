"""Measures what a run will cost a device before it starts: the speed of a model's gradient, an optimizer's own step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.config import Config
from harness.device import resolve_device, resolve_dtype
from harness.rehearsal import rehearse

ENOUGH = 1.0  # seconds of probing
STEPS = 20  # of an optimizer


def gradient_speed(model: Any, cfg: Config) -> float:
    """Measure FLOP/s of the model's gradient on the run's device, by a few of at most a micro-batch, not compiled.

    model: a language model, which is moved to that device.
    """
    place = resolve_device(cfg.device)
    model, dtype = model.to(place), resolve_dtype(cfg.dtype, place)
    sequences = max(1, min(cfg.sequences, 4096 // cfg.context if place == "cpu" else 16))
    tokens = torch.randint(0, 256, (sequences, cfg.context), device=place)

    def gradient() -> None:
        with torch.autocast(place.partition(":")[0], dtype, enabled=dtype != torch.float32):
            loss = model(tokens, tokens).mean
        loss.backward()
        if place != "cpu":
            torch.cuda.synchronize()

    return model.flops_per_token(cfg.context) * tokens.numel() / _fastest(gradient)


def step_seconds(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> float | None:
    """Return the seconds of a step of the optimizer itself, on random gradients; None where it fails on these."""
    try:
        return _fastest(lambda: rehearse(build, model, STEPS)) / STEPS
    except Exception:  # an external class may fail in any way on random gradients; then nothing is claimed of it
        return None


def _fastest(function: Callable[[], Any]) -> float:
    """Return the seconds of a call: the fastest of a few, after one that warms up."""
    function()
    taken: list[float] = []
    while sum(taken) < ENOUGH and len(taken) < 10:
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
