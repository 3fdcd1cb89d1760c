"""Measures what a run will cost a device before it starts: the speed of a model's gradient, an optimizer's own step.

A probe makes as many passes and steps as the constants below say, of a size that they bound, however busy the machine
is. What it finds is kept in a file for the next plan.
"""

import copy
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conventions import atomic
from conventions.config_keys import optimizer_name
from conventions.json_text import parse_json
from harness.config import Config
from harness.device import device_name, resolve_device, resolve_dtype
from harness.memory import bounded
from harness.rehearsal import Rehearsal

FILE = "probes.json"
PASSES = 3  # that are timed, after one that warms up; the fastest counts
PASS_FLOPS = 1e11  # of a pass on a CPU, at most: seconds on one core
FEWEST = 128  # tokens of a pass: fewer would measure how weights are read
STEPS = 10  # of an optimizer, in what is timed as a pass is


class Probes:
    """Speeds that were measured on a device, now or for an earlier plan.

    Args:
        folder: holds the file that keeps them; None: they are not kept.

    Attributes:
        speeds: FLOP/s of gradients, by the model's name, of this plan.
        oldest: the day of the oldest measurement that was used, as in 2026-11-28; None: all are of now.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.file = folder / FILE if folder else None
        self.speeds: dict[str, float] = {}
        self.oldest: str | None = None

    def gradient(self, build: Callable[[], Any], cfg: Config) -> float:
        """Return the FLOP/s of a gradient of the model of a run, not compiled, on the run's device.

        build: makes a language model like the run's, which may have fewer layers.
        """
        name, place = str(cfg.model["name"]), resolve_device(cfg.device)
        if name not in self.speeds:
            shape = {**cfg.model, "context": cfg.context, "tokens": cfg.batch.tokens}
            measured = self._kept(
                f"the gradient of {name}", shape, cfg, lambda: gradient_speed(build().to(place), cfg, place)
            )
            assert measured is not None
            self.speeds[name] = measured
        return self.speeds[name]

    def step(self, optimizer: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, cfg: Config) -> Any:
        """Return the seconds of a step of the optimizer itself, on random gradients; None where it fails on these."""
        name = optimizer_name(cfg.optimizer)
        setting = {"optimizer": cfg.optimizer, "model": cfg.model, "tokens": cfg.batch.tokens}
        return self._kept(f"a step of {name}", setting, cfg, lambda: step_seconds(optimizer, model))

    def _kept(
        self, what: str, setting: Mapping[str, Any], cfg: Config, measure: Callable[[], float | None]
    ) -> float | None:
        """Return what the file holds of a setting on this device, or else measure it, say so, and add it."""
        place = resolve_device(cfg.device)
        on = [device_name(place), torch.get_num_threads(), torch.__version__, str(resolve_dtype(cfg.dtype, place))]
        key = json.dumps([what, setting, on], sort_keys=True, default=str)
        entry = _read(self.file).get(key)
        if entry:
            self.oldest = min(self.oldest or entry["day"], entry["day"])
            return entry["measured"]
        print(f"probing {what} on {on[0]}", file=sys.stderr, flush=True)
        with bounded(place):
            measured = measure()
        if self.file:  # read again: another plan may have added to it meanwhile
            entries = {**_read(self.file), key: {"measured": measured, "day": f"{datetime.now(UTC):%Y-%m-%d}"}}
            atomic.write_text(self.file, json.dumps(entries, indent=1, sort_keys=True) + "\n")
        return measured


def gradient_speed(model: Any, cfg: Config, place: str) -> float:
    """Measure FLOP/s of the gradient of a language model that lies on a device, over a few of at most a micro-batch."""
    dtype, most = resolve_dtype(cfg.dtype, place), 16 * cfg.context
    if place == "cpu":
        most = min(4096, max(FEWEST, int(PASS_FLOPS / model.flops_per_token(cfg.context))))
    context = min(cfg.context, most)
    sequences = max(1, min(cfg.sequences, most // context))
    tokens = torch.randint(0, 256, (sequences, context), device=place)

    def gradient() -> None:
        with torch.autocast(place.partition(":")[0], dtype, enabled=dtype != torch.float32):
            loss = model(tokens, tokens).mean
        loss.backward()
        if place != "cpu":
            torch.cuda.synchronize()

    return model.flops_per_token(context) * tokens.numel() / _fastest(gradient)


def step_seconds(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> float | None:
    """Measure the seconds of a step of the optimizer itself, on random gradients; None where it fails on these."""
    try:
        twin = copy.deepcopy(model)
        optimizer = build(twin)
        rehearsal = Rehearsal.on(twin)

        def steps() -> None:
            rehearsal.steps(optimizer, STEPS)
            if next(twin.parameters()).is_cuda:
                torch.cuda.synchronize()

        return _fastest(steps) / STEPS
    except Exception:  # an external class may fail in any way on random gradients; then nothing is claimed of it
        return None


def _fastest(function: Callable[[], Any]) -> float:
    """Return the seconds of a call: the fastest of a few, after one that warms up."""
    function()
    taken = []
    for _ in range(PASSES):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _read(file: Path | None) -> dict[str, Any]:
    """Return what a file of probes holds; nothing where there is none, or none that reads: it is only kept time."""
    try:
        entries = parse_json(file.read_text(encoding="utf-8")) if file else {}
        return {key: each for key, each in entries.items() if {"measured", "day"} <= each.keys()}
    except (OSError, ValueError, AttributeError):
        return {}
