"""Draws where time, FLOPs and memory went, and what updates consisted of: a bar for each optimizer of a comparison."""

from collections.abc import Callable, Sequence

import numpy as np

from judge.comparison import Comparison
from judge.means import finished, mean_by_arm
from judge.records import Run
from scripts.pages.canvas import Drawing, bars, style_of, total

# Within the clock, what an update takes; outside it, what a run takes besides.
PARTS = {"data": "#9A9A9A", "gradient": "#0072B2", "model": "#0072B2", "curvature": "#E69F00", "optimizer": "#009E73"}
WITHIN = {"seconds": ("data", "gradient", "curvature", "optimizer"), "flops": ("model", "curvature", "optimizer")}
OUTSIDE = {"compile": "#C0649A", "evaluate": "#56B4E9", "checkpoint": "#5B4B8A", "log": "#9A9A9A"}
KINDS = ["#0072B2", "#E69F00", "#009E73", "#C0649A", "#56B4E9", "#D55E00", "#5B4B8A", "#9A9A9A",
         "#F0E442", "#7A4B1E", "#222222", "#A6D854", "#F4A7B9"]  # fmt: skip  # BERT has thirteen kinds of layers
HATCHED = ("curvature", "compile")  # to be distinguished without colours too
SHARE = "update/share_"


def parts(comparison: Comparison, kind: str) -> Drawing | None:
    """Draw where an update's "seconds" or "flops" went, a stacked bar for each arm; None where that is unknown."""
    names = WITHIN[kind]

    def per_update(run: Run) -> list[float] | None:
        values = [run.last(f"{kind}/{name}") for name in names]
        return None if None in values or not run.step else [value / run.step for value in values]

    scale, unit = (1e3, "milliseconds per update") if kind == "seconds" else (1.0, "FLOPs per update")
    means = _means(comparison, per_update)
    return _stacked(means, {name: PARTS[name] for name in names}, unit, f"parts-{kind}", f"{unit}, by part", scale)


def outside(comparison: Comparison) -> tuple[Drawing | None, dict[str, str]]:
    """Draw the seconds that no optimizer answers for, such as evaluations; return the colours too."""

    def per_run(run: Run) -> list[float] | None:
        values = [run.last(f"seconds/{name}") for name in OUTSIDE]
        return None if not any(values) else [value or 0.0 for value in values]

    means = _means(comparison, per_run)
    taken = [i for i in range(len(OUTSIDE)) if any(values[i] for values in means.values())]
    colors = {name: color for i, (name, color) in enumerate(OUTSIDE.items()) if i in taken}
    kept = {label: values[taken] for label, values in means.items()}
    title = "Seconds outside the clock, by part"
    return _stacked(kept, colors, "seconds per run, not counted", "outside", title), colors


def memory(comparison: Comparison, key: str, unit: str, scale: float = 1.0) -> Drawing | None:
    """Draw a bar for each arm: `memory/peak` or `memory/state_per_parameter`; None if unknown."""

    def value(run: Run) -> list[float] | None:
        amount = run.last(f"memory/{key}")
        return None if not amount else [amount]

    return _stacked(_means(comparison, value), {"": "#56708A"}, unit, f"memory-{key}", unit.capitalize(), scale)


def shares(comparison: Comparison) -> tuple[Drawing | None, dict[str, str]]:
    """Draw the shares of the updates' squared norm by kind of layer; return the colours too."""
    known = {kind: None for standing in comparison.standings for run in finished(standing) for kind in share_kinds(run)}
    colors = {kind: KINDS[i % len(KINDS)] for i, kind in enumerate(known)}
    if not known:
        return None, {}

    def over_the_run(run: Run) -> list[float] | None:
        keys = [SHARE + kind for kind in known]
        rows = [[row[key] for key in keys] for row in run.rows if all(row.get(key) is not None for key in keys)]
        moved = [row for row in rows if sum(row) > 0]  # SOAP's first step changes nothing
        return np.mean(moved, axis=0).tolist() if moved else None

    means = _means(comparison, over_the_run)
    unit = "share of the update's squared norm"
    return _stacked(means, colors, unit, "shares", f"{unit}, by kind of layer".capitalize(), totals=False), colors


def share_kinds(run: Run) -> list[str]:
    """Name the kinds of layers that a run's updates are divided into."""
    keys = {key: None for row in run.rows for key in row if key.startswith(SHARE)}
    return [key.removeprefix(SHARE) for key in keys]


def _means(comparison: Comparison, measure: Callable[[Run], Sequence[float] | None]) -> dict[str, np.ndarray]:
    styles = style_of(comparison)
    return {styles[label].name: values for label, values in mean_by_arm(comparison, measure).items()}


def _stacked(
    means: dict[str, np.ndarray],
    colors: dict[str, str],
    unit: str,
    name: str,
    title: str,
    scale: float = 1.0,
    totals: bool = True,
) -> Drawing | None:
    if not means:
        return None
    figure, axes = bars(list(means), unit)
    values = np.array(list(means.values())) * scale  # (arms, parts)
    left = np.zeros(len(means))
    for index, (part, color) in enumerate(colors.items()):
        axes.barh(range(len(means)), values[:, index], left=left, height=0.62, color=color, edgecolor="white",
                  linewidth=0.6, hatch="///" if part in HATCHED else None, label=part or None)  # fmt: skip
        left += values[:, index]
    axes.set_xlim(0, None if totals else 1)
    if totals:
        for row, value in enumerate(left):
            total(axes, row, value)
    return Drawing(figure, name, title[0].upper() + title[1:])
