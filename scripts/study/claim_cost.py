"""What a claim's runs cost, before any of them starts: tokens, FLOPs, bytes on disk, hours on this machine.

Model FLOPs are exact (6N + 12LHQT). Curvature is rehearsed: the optimizer steps on a model of width 8, and the passes
that it asks for are counted. Matrix work is what the optimizer says of itself. The hours come from a probe: a few
gradients of the model on this device (of its first two layers, where it has more), and of a small model's optimizer a
few steps. The probe runs eagerly; on a GPU the runs are compiled, and faster.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import models
from conventions import quantity
from conventions.keywords import construct
from conventions.run_format import ENDED
from harness.config import Config, parse
from harness.device import device_name, resolve_device, resolve_dtype
from harness.hessian import Hessian
from harness.rehearsal import rehearse
from harness.schedule import build_schedule
from harness.sweep.launcher import runs_at_once
from harness.sweep.planned import launcher_of
from judge.claims.claim import PlanCell
from judge.records import Run
from models.plan import check_model
from optimizers.plan import check_optimizer
from scripts.study.claim_runs import ClaimRuns, compose_arm
from scripts.study.cost import Build, passes_per_step

GPT2_TOKENS, BYTE_TOKENS = 50257, 256
ROW_BYTES = 1400  # of metrics.jsonl
KEPT = 2  # checkpoints of a run
LAYERS = 2  # of the model that is probed
SMALL = 5_000_000  # parameters of a model whose optimizer is probed too
ENOUGH = 1.0  # seconds of probing


@dataclass(frozen=True)
class RunCost:
    """What one run costs. None: not known beforehand."""

    tokens: int
    model: float  # FLOPs
    curvature: float | None
    optimizer: float | None
    disk: float | None  # bytes
    seconds: float | None

    @staticmethod
    def total(costs: Sequence["RunCost"], key: str) -> float | None:
        found = [getattr(cost, key) for cost in costs]
        return None if None in found else sum(found)


def check_arms(asked: ClaimRuns) -> None:
    """All that train.py would find wrong with a run before it touches its data.

    Raises ValueError, naming the claim's file and the arm.
    """
    claim, scale = asked.claim, asked.claim.scale(asked.scale)
    for part, arm in asked.places:
        cfg = parse(compose_arm(claim, asked.scale, part, arm, asked.of_runs))
        try:
            check_model(cfg.model, cfg.context, cfg.seed)
            check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")
            for steps in scale.lengths(part, arm):
                construct(build_schedule, cfg.schedule, "schedule", steps)
        except ValueError as error:
            raise ValueError(f"{claim.path}: the arm {arm} of {asked.scale}/{part}: {error}") from None


def check_device(asked: ClaimRuns) -> None:
    """Raise ValueError where the runs would be on a device that this machine does not have."""
    device = str(compose_arm(asked.claim, asked.scale, *asked.places[0], asked.of_runs)["device"])
    if runs_at_once(launcher_of(asked.overrides, None), device) is not None:
        resolve_device(device)


def print_plan(asked: ClaimRuns, found: Mapping[PlanCell, Run | None], console: Console) -> None:
    """A line for each arm and length, with the trials of its rate, and the sum."""
    claim, scale = asked.claim, asked.scale
    console.print(f"{claim.name}, scale {scale}: {claim.sentence}", highlight=False, markup=False)
    title = "Of all runs; disk and hours of those to do"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title)
    for name in ("arm", "updates", "to do", "tokens", "model", "curv.", "optim.", "disk", "hours"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold", no_wrap=name == "arm")
    speeds: dict[str, float] = {}  # FLOP/s of each model
    part_before = None
    owed: list[RunCost] = []
    runs, shown = 0, set[Path]()
    for part, arm in asked.places:
        if part != part_before:
            table.add_section()
            table.add_row(Text(part, "bold"))
            part_before = part
        arm_cost = cost_of(parse(compose_arm(claim, scale, part, arm)), speeds)
        lines: list[tuple[str, int, list[bool]]] = []  # what, updates, whether each run has ended
        tuner = asked.tuners.get((part, arm))
        if tuner and tuner.folder not in shown:  # arms that are alike share their trials
            shown.add(tuner.folder)
            lines.append((f"{arm}: trials", tuner.steps // 2, [each.ended for each in tuner.trials()]))
        for steps in claim.scale(scale).lengths(part, arm):
            there = [run for cell, run in found.items() if cell[:3] == (part, arm, steps)]
            lines.append((arm, steps, [run is not None and run.status in ENDED for run in there]))
        for what, steps, ended in lines:
            cost = arm_cost(steps)
            left = [cost] * ended.count(False)
            owed, runs = owed + left, runs + len(ended)
            cells = _cells([cost] * len(ended), left)
            table.add_row(Text(what), f"{steps:,}", f"{len(left)}/{len(ended)}", *cells)
    table.add_section()
    table.add_row(Text("to do"), "", f"{len(owed)}/{runs}", *_cells(owed, owed))
    console.print(table)
    device = resolve_device("auto")
    rates = ", ".join(f"{quantity.flops(rate)} FLOP/s ({model})" for model, rate in speeds.items())
    console.print(
        f"Model, curvature and optimizer in FLOPs. Hours are one run after another on this machine "
        f"({device_name(device)}, {torch.get_num_threads()} threads), by a probe of a few gradients just now: {rates}. "
        "Evaluations are in them; loading, compiling and preparing the corpus are not. Disk is the newest two "
        "checkpoints and the metrics.",
        highlight=False, markup=False,
    )  # fmt: skip


def _cells(all_runs: Sequence[RunCost], left: Sequence[RunCost]) -> list[str]:
    def text(costs: Sequence[RunCost], key: str, form: Callable[[float], str]) -> str:
        total = RunCost.total(costs, key)
        return "unknown" if total is None else form(total) if total else "0"

    flops = [text(all_runs, key, quantity.short) for key in ("model", "curvature", "optimizer")]
    rest = [text(left, "disk", _bytes), text(left, "seconds", lambda seconds: _hours(seconds / 3600))]
    return [text(all_runs, "tokens", quantity.short), *flops, *rest]


def cost_of(cfg: Config, speeds: dict[str, float]) -> Callable[[int], RunCost]:
    """What a run of this config costs, by its length in updates. `speeds` keeps what was measured of each model."""
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
    name = str(cfg.model["name"])
    if name not in speeds:
        speeds[name] = _speed(cfg)
    own = _optimizer_seconds(build, cfg) if parameters <= SMALL else None if work is None else work / speeds[name]
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
            seconds=None if flops is None or own is None else flops / speeds[name] + steps * own,
        )

    return cost


def _model(cfg: Config, **changed: int) -> Any:
    family = models.find(cfg.model["family"])
    shape = {key: value for key, value in cfg.model.items() if key not in ("vocabulary", "name", "family")}
    tokens = BYTE_TOKENS if cfg.data.get("tokenizer") == "bytes" else GPT2_TOKENS
    vocabulary = models.padded_vocabulary(cfg.model["vocabulary"], tokens)
    return family(**{**shape, **changed}, vocabulary=vocabulary)


def _curvature(build: Build, model: Any, cfg: Config, gradient: float) -> float | None:
    """FLOPs of a step beyond the gradient, a mean over a period of the optimizer's refreshes."""
    try:
        passes = passes_per_step(build)
    except Exception:  # an external class may fail in any way on random gradients; then nothing is claimed of it
        return None
    extra = (passes["gradient"] - 1 + passes["sampled_grads"]) * gradient
    if not passes["hvp"] and not passes["joint_hvp"]:
        return extra
    own, products = (cfg.sequences * flops for flops in _hessian_flops(model, cfg.context))
    return extra + passes["hvp"] * (own + products) + passes["joint_hvp"] * products


def _hessian_flops(model: Any, context: int) -> tuple[int, int]:
    """Count the FLOPs of a Hessian-vector product on one sequence, its gradient and the rest, without computing it."""
    tokens = torch.zeros(1, context, dtype=torch.int64, device="meta")
    params = list(model.parameters())
    return Hessian(model, params, nullcontext).flops(tokens, tokens, [torch.ones_like(p) for p in params])


def _speed(cfg: Config) -> float:
    """FLOP/s of the model's gradient on this device, by a few of at most a micro-batch's size."""
    place = resolve_device(cfg.device)
    fewer = {"layers": min(LAYERS, cfg.model["layers"])} if "layers" in cfg.model else {}  # whatever has layers
    model = _model(cfg, **fewer).to(place)
    dtype = resolve_dtype(cfg.dtype, place)
    sequences = max(1, min(cfg.sequences, 4096 // cfg.context if place == "cpu" else 16))
    tokens = torch.randint(0, BYTE_TOKENS, (sequences, cfg.context), device=place)

    def gradient() -> None:
        with torch.autocast(place.partition(":")[0], dtype, enabled=dtype != torch.float32):
            loss = model(tokens, tokens).mean
        loss.backward()
        if place != "cpu":
            torch.cuda.synchronize()

    return model.flops_per_token(cfg.context) * tokens.numel() / _seconds(gradient)


def _optimizer_seconds(build: Build, cfg: Config) -> float | None:
    """Time a step of the optimizer itself, on random gradients."""
    model, steps = _model(cfg).to(resolve_device(cfg.device)), 20
    try:
        return _seconds(lambda: rehearse(build, model, steps)) / steps
    except Exception:  # as above
        return None


def _seconds(function: Callable[[], Any]) -> float:
    """Time a call: the fastest of a few, after one that warms up."""
    function()
    taken: list[float] = []
    while sum(taken) < ENOUGH and len(taken) < 10:
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
