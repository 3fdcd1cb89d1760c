"""Finds what a run will cost before it starts: tokens, FLOPs, bytes on disk, seconds on this machine.

Model FLOPs are exact (6N + 12LHQT). Curvature is rehearsed: the optimizer steps on a model of width 4, and the passes
that it asks for are counted. Matrix work is what the optimizer says of itself. The seconds come from a probe on this
device: a few gradients of the model (of its first two layers, where it has more), and a few steps of the optimizer on a
small model. The probe runs eagerly; on a GPU the runs are compiled, and faster. The next plan uses what it measured.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from conventions.paths import expanded
from data.plan import VOCABULARIES, vocabulary
from data.prepare import DIR
from harness.config import Config
from harness.device import resolve_device
from harness.hessian import Hessian
from harness.probe import Probes
from harness.rehearsal import passes_per_step
from optimizers.plan import check_optimizer
from scripts.study.cost import smallest_model
from scripts.study.toy import Build

ROW_BYTES = 1400  # of metrics.jsonl
KEPT = 2  # checkpoints of a run
LAYERS = 2  # of the model that is probed
SMALL = 5_000_000  # parameters of a model whose optimizer is probed too


@dataclass(frozen=True)
class RunCost:
    """Holds what one run costs. None: not known beforehand."""

    tokens: int
    model: float  # FLOPs
    curvature: float | None
    optimizer: float | None
    disk: float | None  # bytes
    seconds: float | None

    @staticmethod
    def total(costs: Sequence["RunCost"], key: str) -> float | None:
        values = [getattr(cost, key) for cost in costs]
        return None if None in values else sum(values)


def cost_of(cfg: Config, probes: Probes) -> Callable[[int], RunCost]:
    """Say what a run of this config costs, by its length in updates."""
    with torch.device("meta"):
        model = _model(cfg)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")
    info, build = planned.info, planned.build
    per_token = model.flops_per_token(cfg.context)
    gradient = per_token * cfg.batch.tokens
    treatments = info.treatments(build(model), model, cfg.batch.tokens)
    work = None if treatments is None else sum(each.flops for each in treatments.values())
    state = None if treatments is None else sum(each.state_bytes for each in treatments.values())
    curvature = _curvature(build, model, cfg, gradient)
    parameters = sum(p.numel() for p in model.parameters())
    fewer = {"layers": min(LAYERS, cfg.model["layers"])} if "layers" in cfg.model else {}  # whatever has layers
    speed = probes.gradient(lambda: _model(cfg, **fewer), cfg)
    if parameters <= SMALL:
        own = probes.step(build, _model(cfg).to(resolve_device(cfg.device)), cfg)
    else:
        own = None if work is None else work / speed
    # Forward alone: a third of a gradient's FLOPs. The whole split, where eval.tokens does not say, is taken as 4.4M.
    evaluation = per_token / 3 * (cfg.eval.tokens or 4_400_000)

    def cost(steps: int) -> RunCost:
        evaluations = steps // cfg.eval.every + 1
        rows = steps // cfg.log.every + evaluations
        flops = None if curvature is None else steps * (gradient + curvature) + evaluations * evaluation
        return RunCost(
            tokens=steps * cfg.batch.tokens,
            model=float(steps * gradient),
            curvature=None if curvature is None else steps * curvature,
            optimizer=None if work is None else steps * work,
            disk=None if state is None else KEPT * (4.0 * parameters + state) + rows * ROW_BYTES,
            seconds=None if flops is None or own is None else flops / speed + steps * own,
        )

    return cost


def kept_in(cfg: Config) -> Path:
    """Return the folder that keeps probes: where the prepared corpora are."""
    return expanded(cfg.data.get("dir") or DIR, "data.dir", "HALFSTEP_DATA")


def _model(cfg: Config, **changed: int) -> Any:
    shape = {key: value for key, value in cfg.model.items() if key not in ("vocabulary", "name", "family")}
    family, tokens = models.find(cfg.model["family"]), vocabulary(cfg.data, VOCABULARIES["gpt2"])
    rows = models.padded_vocabulary(cfg.model["vocabulary"], tokens + family.extra_tokens)
    return family(**{**shape, **changed}, vocabulary=rows)


def _smallest(cfg: Config) -> Any:
    """Build a small model of the family, whose layers have the names that an optimizer leaves out."""
    sizes = {"layers": 1, "heads": 1, "kv_heads": 1, "width": 8, "hidden": 8, "context": 8}
    kept = {key: value for key, value in cfg.model.items() if key not in ("vocabulary", "name", "family")}
    if not {"layers", "width"} <= set(kept):  # a family that names its sizes in other words may be large
        return smallest_model()
    shape = {**kept, **{key: value for key, value in sizes.items() if key in kept}}
    return models.find(cfg.model["family"])(**shape, vocabulary=64)


def _curvature(build: Build, model: Any, cfg: Config, gradient: float) -> float | None:
    """Count the FLOPs of a step beyond the gradient, a mean over a period of the optimizer's refreshes."""
    try:
        passes = passes_per_step(build, _smallest(cfg))
    except Exception:  # an external class may fail in any way on random gradients; then nothing is claimed of it
        return None
    sampled = model.sampled_flops_per_token(cfg.context) * cfg.batch.tokens
    extra = (passes["gradient"] - 1) * gradient + passes["sampled_grads"] * sampled
    if not passes["hvp"] and not passes["joint_hvp"]:
        return extra
    tokens, params = torch.zeros(1, cfg.context, dtype=torch.int64, device="meta"), list(model.parameters())
    product = Hessian(model, params, nullcontext).flops(tokens, tokens, [torch.ones_like(p) for p in params])
    own, products = (cfg.sequences * flops for flops in product)  # its gradient and the rest, without computing them
    return extra + passes["hvp"] * (own + products) + passes["joint_hvp"] * products
