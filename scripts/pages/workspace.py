"""Builds a study's page in W&B: sections of panels, which runs they show, and what the folders say.

W&B's own library builds it. The tests save it to a stand-in of the server; only W&B can show how it is drawn.
"""

from typing import Any

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces

from conventions import quantity
from conventions.grid import Grid, markdown
from conventions.quantity import TITLE
from harness.wandb_tracker import AXES, group_of
from judge.answer import wins
from judge.comparison import Comparison, Standing
from scripts.pages.bars import OUTSIDE, WITHIN
from scripts.pages.canvas import by_optimizer

LOSS = "val/loss"
AXIS_TITLES = dict(zip(AXES, ("updates", "tokens", "FLOPs, of model, curvature and optimizer", "seconds"), strict=True))
GROUP = "Group"  # runs that are alike in all but the seed, see harness/wandb_tracker.py
OPTIMIZER = panels.Config("optimizer.name")
RATE = "optimizer.lr"
TUNED = (RATE, "optimizer.weight_decay", "schedule.warmup")
SHOWN = 100  # lines in a chart


def build(comparison: Comparison, study: str, entity: str, project: str) -> workspaces.Workspace:
    """Return a workspace that is not saved yet: charts of `study`'s runs in W&B, and what the folders say of them."""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"halfstep {study}",
        sections=sections(comparison),
        settings=workspaces.WorkspaceSettings(x_axis=AXES[0], max_runs=SHOWN),
        runset_settings=_runs(comparison, study),
    )


def sections(comparison: Comparison) -> list[workspaces.Section]:
    """Return the sections: loss on every axis, learning rates, overhead, win rate."""
    by_group: dict[str, Any] = {"groupby": GROUP, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    losses: list[Any] = [
        panels.LinePlot(title=f"Validation loss against {title.split(',')[0]}", x=axis, y=[LOSS], title_x=title,
                        title_y="nats per token", max_runs_to_show=SHOWN, **by_group)
        for axis, title in AXIS_TITLES.items()
    ]  # fmt: skip
    rates: list[Any] = [
        panels.ScatterPlot(title="Final loss against learning rate", x=panels.Config(RATE),
                           y=panels.SummaryMetric(f"{LOSS}.last"), log_x=True),
        panels.ParallelCoordinatesPlot(
            title="What was tuned",
            columns=[
                *(panels.ParallelCoordinatesPlotColumn(panels.Config(key), log=key == RATE) for key in TUNED),
                panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric(f"{LOSS}.last")),
            ],
        ),
    ]  # fmt: skip
    overhead: list[Any] = [
        _bar("Tokens per second", ["throughput/tokens_per_second"]),
        _bar("FLOPs of a run, by part", ["flops/model", "flops/curvature", "flops/optimizer"]),
        _bar("Seconds of a run, by part", [f"seconds/{part}" for part in WITHIN["seconds"]]),
        _bar("Seconds outside the clock", [f"seconds/{part}" for part in OUTSIDE]),
        _bar("Peak memory, bytes", ["memory/peak"]),
        _bar("State, bytes per parameter", ["memory/state_per_parameter"]),
    ]
    lowest = panels.BarPlot(title="Lowest validation loss", metrics=[panels.SummaryMetric(f"{LOSS}.min")],
                            groupby=OPTIMIZER, groupby_aggfunc="min")  # fmt: skip
    return [
        workspaces.Section(name="Loss", panels=losses, is_open=True, layout_settings=_layout(2, 2)),
        workspaces.Section(name="Learning rate", panels=rates, is_open=True, layout_settings=_layout(2, 1)),
        workspaces.Section(name="Overhead", panels=overhead, is_open=True, layout_settings=_layout(3, 2)),
        workspaces.Section(name="Win rate", panels=[panels.MarkdownPanel(markdown=win_rates(comparison)), lowest],
                           is_open=True, layout_settings=_layout(2, 1)),
    ]  # fmt: skip


def win_rates(comparison: Comparison) -> str:
    """Write how often each optimizer ended below the baseline at the same seed and length, and the verdict."""
    base, *newcomers = comparison.standings
    header = ["optimizer", "ended lower", "final loss", *(f"speed-up in {title}" for title in TITLE.values())]
    rows = [[base.arm.label, "", quantity.loss(base.loss, base.spread), *("" for _ in TITLE)]]
    for each in newcomers:
        won, met = wins(base.arm, each.arm)
        share = f"{won} of {met}" if met else "never met"
        cells = [_cell(comparison, each, axis) for axis in TITLE]
        rows.append([each.arm.label, share, quantity.loss(each.loss, each.spread), *cells])
    head = f"**Against {comparison.baseline}**, from the run folders: W&B has no part in these figures."
    table = markdown(Grid("", header, rows))
    return "\n".join([head, "", table, "", *(f"- **{warning}**" for warning in comparison.warnings)])


def _runs(comparison: Comparison, study: str) -> workspaces.RunsetSettings:
    """Return the study's runs, in groups of seeds, the best group first; an optimizer has the colour of its figures."""
    styles = by_optimizer(comparison)
    groups: dict[object, object] = {
        (run.config.get("tracker") or {}).get("group") or group_of(run.config, study): styles[run.optimizer].color
        for run in comparison.runs
    }
    return workspaces.RunsetSettings(
        filters=workspaces.And(workspaces.Config("study") == study),
        groupby=[workspaces.Metric(GROUP)],
        order=[workspaces.Ordering(workspaces.Summary(f"{LOSS}.last"), ascending=True)],
        pinned_columns=["run:displayName", "summary:status", f"summary:{LOSS}.min", f"summary:{LOSS}.last",
                        "config:optimizer.value.lr", "config:steps", "config:seed"],
        group_colors=groups,
    )  # fmt: skip


def _cell(comparison: Comparison, each: Standing, axis: str) -> str:
    rows = [row for row in comparison.rows if (row.arm, row.axis, row.rule) == (each.arm.label, axis, "matched")]
    return next((f"{row.speedup.figure} {row.words}".strip() for row in rows if row.speedup.known), "")


def _bar(title: str, metrics: list[Any]) -> panels.BarPlot:
    return panels.BarPlot(title=title, metrics=metrics, groupby=GROUP, groupby_aggfunc="mean", max_runs_to_show=SHOWN)


def _layout(columns: int, rows: int) -> workspaces.SectionLayoutSettings:
    return workspaces.SectionLayoutSettings(columns=columns, rows=rows)
