"""Shows what runs cost before any of them starts, in the terminal: those of a claim, or of a verdict."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from rich.console import Console

from conventions import quantity
from conventions.grid import Grid
from conventions.terminal_table import terminal_table
from harness.config import Config
from harness.device import device_name, resolve_device
from harness.probe import Probes
from harness.sweep.launcher import runs_at_once
from harness.sweep.local import cores
from scripts.study.run_cost import RunCost, cost_of, kept_in

START = {"cpu": 8.0, "cuda": 30.0}  # seconds of a run that are not training: imports, the corpus, on CUDA the compiler


class PlanLine(NamedTuple):
    """Names runs that are alike in all but the seed, or in what is tried."""

    section: str
    name: str
    cfg: Config
    steps: int
    ended: list[bool]  # of each run


def print_costs(title: str, lines: Iterable[PlanLine], launcher: Sequence[str], console: Console) -> None:
    """Print a line for each, below the name of its section, and the sum of what is to do.

    launcher: its overrides. Where it has several runs at once on this machine, their threads share the cores.
    """
    lines = list(lines)
    place = resolve_device(lines[0].cfg.device)
    kind = place.partition(":")[0]
    slots, before = runs_at_once(launcher, kind) or 1, torch.get_num_threads()
    if kind == "cpu" and slots > 1:
        torch.set_num_threads(max(1, cores() // slots))
    threads, probes = torch.get_num_threads(), Probes(kept_in(lines[0].cfg))
    costs: dict[int, Callable[[int], RunCost]] = {}
    header = ["runs", "updates", "to do", "tokens", "model", "curv.", "optim.", "disk", "hours"]
    rows: list[list[str]] = []
    owed, count, section = list[RunCost](), 0, None
    for line in lines:
        if line.section != section:
            section = line.section
            rows += [[], [section]]
        if id(line.cfg) not in costs:
            costs[id(line.cfg)] = cost_of(line.cfg, probes)
        cost = costs[id(line.cfg)](line.steps)
        cost = replace(cost, seconds=None if cost.seconds is None else cost.seconds + START[kind])
        left = [cost] * line.ended.count(False)
        owed, count = owed + left, count + len(line.ended)
        done = f"{len(left)}/{len(line.ended)}"
        rows.append([line.name, f"{line.steps:,}", done, *_cells([cost] * len(line.ended), left)])
    torch.set_num_threads(before)
    rows += [[], ["to do", "", f"{len(owed)}/{count}", *_cells(owed, owed)]]
    bold = dict.fromkeys((line.section for line in lines), "bold")
    console.print(terminal_table(Grid(title, header, rows), colors=bold))
    rates = ", ".join(f"{quantity.flops(rate)} FLOP/s ({model})" for model, rate in probes.speeds.items())
    total = RunCost.total(owed, "seconds")
    when = f"the oldest of {probes.oldest}; delete {probes.file} to probe anew" if probes.oldest else "just now"
    beside = f"; {slots} side by side take about {quantity.seconds(total / slots)}" if slots > 1 and total else ""
    console.print(
        "Tokens and FLOPs (of model, curvature and optimizer) are those of all runs, disk and hours of those to do. "
        f"Hours are those of one run after another on {device_name(place)} with OMP_NUM_THREADS={threads}, by a probe "
        f"of a few gradients ({rates}; {when}), with evaluations and {START[kind]:g} s to start each in it{beside}. "
        "Preparing a corpus comes on top. Disk is the newest two checkpoints and the metrics.",
        highlight=False, markup=False,
    )  # fmt: skip


def _cells(all_runs: Sequence[RunCost], left: Sequence[RunCost]) -> list[str]:
    def text(costs: Sequence[RunCost], key: str, form: Callable[[float], str] = quantity.short) -> str:
        total = RunCost.total(costs, key)
        return "unknown" if total is None else form(total) if total else "0"

    of_all = [text(all_runs, key) for key in ("tokens", "model", "curvature", "optimizer")]
    return [*of_all, text(left, "disk", quantity.size), text(left, "seconds", quantity.hours)]
