"""What a verdict takes, before anything starts: runs, tokens and time, by the speed of this machine just now."""

from collections.abc import Callable, Iterator, Sequence

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from conventions import quantity
from harness.config import parse
from harness.device import device_name, resolve_device
from harness.sweep.launcher import runs_at_once
from harness.sweep.local import cores
from scripts.study.claim_cost import RunCost, cost_of
from scripts.study.tuner import AGAIN, Tuner
from scripts.study.verdict_study import Study

START = {"cpu": 8.0, "cuda": 30.0}  # seconds of a run that are not training: imports, the corpus, on CUDA the compiler


def print_plan(study: Study, launcher: Sequence[str], console: Console) -> None:
    """A line for each step and optimizer, and the sum."""
    place = resolve_device(str(study.base.values["device"])).partition(":")[0]
    slots = runs_at_once(launcher, place) or 1
    before = torch.get_num_threads()
    if place == "cpu":
        torch.set_num_threads(max(1, cores() // slots))  # as launcher=local shares them out
    speeds: dict[str, float] = {}
    costs = {id(tuner): cost_of(parse(tuner.values), speeds) for tuner in study.tuners}
    torch.set_num_threads(before)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"Before a verdict at the scale {study.name}")
    for name in ("runs", "optimizer", "updates", "to do", "tokens", "time left"):
        table.add_column(name, justify="left" if name in ("runs", "optimizer") else "right")
    total, tokens, todo, every = 0.0, 0, 0, 0
    known = True
    for what, tuner, steps, left, count in _lines(study):
        each = _seconds(costs[id(tuner)], steps, START[place])
        known &= each is not None
        spent = left * (each or 0.0)
        size = left * steps * int(tuner.values["batch"]["tokens"])
        total, tokens, todo, every = total + spent, tokens + size, todo + left, every + count
        time = quantity.seconds(spent) if each is not None else "unknown"
        table.add_row(what, tuner.optimizer, f"{steps:,}", f"{left}/{count}", f"{size / 1e6:,.1f}M", time)
    table.add_section()
    time = quantity.seconds(total) if known else "unknown"
    table.add_row("all", "", "", f"{todo}/{every}", f"{tokens / 1e6:,.1f}M", time)
    console.print(table)
    rate = quantity.flops(next(iter(speeds.values())))
    console.print(
        f"One run after another on {device_name(resolve_device(str(study.base.values['device'])))}, by a few gradients "
        f"just now ({rate} FLOP/s) and {START[place]:g} seconds to start each"
        + (f"; {slots} side by side take about {quantity.seconds(total / slots)}" if slots > 1 and known else "")
        + ". Preparing a corpus comes on top.",
        highlight=False, markup=False,
    )  # fmt: skip


def _lines(study: Study) -> Iterator[tuple[str, Tuner, int, int, int]]:
    """(what, whose, updates, how many are left, of how many); what depends on a choice to come is left whole."""
    tuned = set()
    for tuner in study.tuners:
        trials = tuner.trials()
        left = sum(not run.ended for run in trials)
        yield "trials", tuner, tuner.steps // 2, left, len(trials)
        again = AGAIN if left else sum(not run.ended for run in tuner.again())
        yield "best and neighbours", tuner, tuner.steps, again, AGAIN
        if not left and not again:
            tuned.add(tuner.optimizer)
    for tuner in study.tuners:
        runs = study.compared(tuner) if tuner.optimizer in tuned else []
        for steps in study.lengths(tuner):
            ended = sum(run.ended for run in runs if run.steps == steps)
            yield "compared", tuner, steps, len(study.scale.seeds) - ended, len(study.scale.seeds)


def _seconds(cost: Callable[[int], RunCost], steps: int, start: float) -> float | None:
    found = cost(steps).seconds
    return None if found is None else found + start
