"""The figures of a report, each an SVG that stands inside an HTML page without fetching anything."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from harness.arms import Arm, plain
from harness.comparison import Comparison
from harness.curve import mean_curve
from harness.ladder import RUNGS
from harness.quantity import TITLE, short
from harness.records import Run
from harness.speedup import ladder_of, matched_length

# Okabe and Ito's colours, which colour-blind readers tell apart; the baseline is the black one. Dashes repeat it.
INK = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES: list[Any] = [
    "-",
    (0, (6, 2)),
    (0, (2.5, 1.2)),
    (0, (7, 2, 1.5, 2)),
    (0, (5, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (9, 3)),
    (0, (1.2, 1.2)),
]
PARTS = {"data": "#9A9A9A", "model": "#0072B2", "gradient": "#0072B2", "curvature": "#E69F00", "optimizer": "#009E73"}
GREY = "#6b6b6b"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "svg.hashsalt": "halfstep",  # the same runs give the same bytes
    "font.family": "DejaVu Sans",  # matplotlib's own, so that every machine lays out the same
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}


def style_of(comparison: Comparison) -> dict[str, tuple[str, Any]]:
    """Colour and dash of each arm that is compared, by its label."""
    labels = [standing.arm.label for standing in comparison.standings]
    return {label: (INK[i % len(INK)], DASHES[i % len(DASHES)]) for i, label in enumerate(labels)}


def curves(comparison: Comparison, axis: str) -> str | None:
    """Validation loss against steps, FLOPs or seconds; None where nobody knows them.

    The first tenth of training falls off a cliff that would flatten everything else, so it runs off the top.
    """
    figure, axes = _canvas(3.7, 2.9)
    heights, lowest = [], []
    for standing in comparison.standings:
        runs = standing.arm.finished(comparison.length) if comparison.length else []
        curve = [point for point in mean_curve(runs) if getattr(point, axis) is not None]
        if len(curve) < 2:
            continue
        color, dash = style_of(comparison)[standing.arm.label]
        x, y = [getattr(point, axis) for point in curve], [point.loss for point in curve]
        axes.plot(x, y, color=color, linestyle=dash, zorder=4 if standing.optimizer == comparison.baseline else 3)
        axes.plot(x[-1], y[-1], "o", color=color, markersize=3, clip_on=False, zorder=5)
        if len(runs) > 1:
            by_step = [{point.steps: point.loss for point in run.points} for run in runs]
            seeds = np.array([[losses[point.steps] for losses in by_step] for point in curve])
            axes.fill_between(x, seeds.min(axis=1), seeds.max(axis=1), color=color, alpha=0.18, linewidth=0)
        cliff = comparison.length / 10 if comparison.length else 0
        heights.append(next(point.loss for point in curve if point.steps >= cliff))
        lowest.append(min(y))
    if not heights:
        return None
    span = max(heights) - min(lowest)
    axes.set_ylim(min(lowest) - 0.06 * span, max(heights) + 0.04 * span)
    axes.set_xlim(left=0)
    if comparison.target is not None:
        axes.axhline(comparison.target, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    _label(axes, TITLE[axis] if axis != "steps" else "updates", "validation loss, nats per token")
    return _svg(figure, f"Validation loss against {TITLE[axis]}", f"curves-{axis}")


def ladder(comparison: Comparison) -> str | None:
    """Final loss against length: the baseline's law, and how far from it each newcomer lies. None without a law."""
    base = comparison.standings[0].arm
    if len(base.lengths) < RUNGS or not ladder_of(base).falls:
        return None
    rungs, styles = ladder_of(base), style_of(comparison)
    figure, axes = _canvas(4.4, 3.0)
    labels: list[tuple[float, float, str, str]] = []  # loss, length, text, colour
    lengths = np.geomspace(rungs.lengths[0], rungs.lengths[-1], 100)
    axes.plot(lengths, [rungs.loss(length) for length in lengths], color=styles[base.label][0], zorder=2)
    for standing in comparison.standings:
        arm, color = standing.arm, styles[standing.arm.label][0]
        for length in arm.lengths:
            losses = arm.losses(length)
            axes.plot([length] * len(losses), losses, "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
            axes.plot(length, losses.mean(), "_", color=color, markersize=13, markeredgewidth=1.6, zorder=3)
        at = matched_length(base, arm) if arm is not base else None
        row = next((row for row in comparison.rows if row.arm == arm.label and row.rule == "matched"), None)
        if at and row and row.speedup.value:
            loss, reach = float(arm.losses(at).mean()), row.speedup.value * at
            labels.append((loss, max(at, reach), f"{arm.label} {row.speedup}x", color))
            if row.speedup.censored is None:
                axes.plot([at, reach], [loss, loss], color=color, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
                axes.plot(reach, loss, "o", markersize=5, markerfacecolor="white", markeredgecolor=color, zorder=4)
    room, lowest = 0.055 * float(np.ptp(axes.get_ylim())), -np.inf  # the height of a line of text
    for height, right, text, color in sorted(labels):
        lowest = max(height, lowest + room)
        axes.annotate(text, (right, lowest), xytext=(11, 0), textcoords="offset points", va="center", color=color)
    axes.set_xscale("log")
    ticks = sorted({length for standing in comparison.standings for length in standing.arm.lengths})
    axes.set_xticks(ticks if len(ticks) <= 8 else rungs.lengths)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.1)
    _label(axes, "length of the run, updates (log scale)", "final validation loss")
    return _svg(figure, "Final validation loss against the length of the run", "ladder")


def parts(comparison: Comparison, kind: str) -> str | None:
    """Where an update's "seconds" or "flops" went, a stacked bar for each arm; None where that is unknown."""
    names = ("data", "gradient", "curvature", "optimizer") if kind == "seconds" else ("model", "curvature", "optimizer")

    def shares(run: Run) -> list[float] | None:
        values = [run.last(f"{kind}/{name}") for name in names]
        return None if None in values or not run.step else [value / run.step for value in values]

    bars = _mean_by_arm(comparison, shares)
    if not bars:
        return None
    scale, unit = (1e3, "milliseconds") if kind == "seconds" else (1.0, "FLOPs")
    figure, axes = _bars(len(bars))
    for row, values in enumerate(bars.values()):
        left = 0.0
        for name, value in zip(names, values * scale, strict=True):
            axes.barh(row, value, left=left, height=0.62, color=PARTS[name], edgecolor="white", linewidth=0.6)
            left += value
        axes.annotate(short(left), (left, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    _name_bars(axes, list(bars), f"{unit} per update")
    return _svg(figure, f"{unit.capitalize()} per update, by part", f"parts-{kind}")


def memory(comparison: Comparison, key: str, unit: str, scale: float = 1.0) -> str | None:
    """A bar for each arm: `memory/peak` or `memory/state_per_parameter`; None if unknown."""

    def value(run: Run) -> list[float] | None:
        found = run.last(f"memory/{key}")
        return None if not found else [found * scale]

    bars = _mean_by_arm(comparison, value)
    if not bars:
        return None
    figure, axes = _bars(len(bars))
    for row, values in enumerate(bars.values()):
        axes.barh(row, values[0], height=0.62, color="#56708A")
        axes.annotate(short(values[0]), (values[0], row), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8)  # fmt: skip
    _name_bars(axes, list(bars), unit)
    return _svg(figure, unit.capitalize(), f"memory-{key}")


def learning_rates(comparison: Comparison) -> str | None:
    """Final loss against learning rate for optimizers that tried several; a cross at the top is a divergence."""
    length = comparison.length
    tried: dict[str, dict[float, list[Arm]]] = {}
    for arm in comparison.arms:
        rate = arm.settings.get("optimizer.lr")
        if isinstance(rate, int | float) and length and (arm.lengths.count(length) or arm.diverged(length)):
            tried.setdefault(arm.optimizer, {}).setdefault(float(rate), []).append(arm)
    tried = {optimizer: by_rate for optimizer, by_rate in tried.items() if len(by_rate) > 1}
    if not tried or length is None:
        return None
    figure, axes = _canvas(4.4, 2.8)
    colors = {standing.optimizer: style_of(comparison)[standing.arm.label] for standing in comparison.standings}
    for optimizer, by_rate in tried.items():
        color, dash = colors[optimizer]
        best = {rate: min(arm.mean_loss(length) for arm in by_rate[rate]) for rate in sorted(by_rate)}
        finite = {rate: loss for rate, loss in best.items() if np.isfinite(loss)}
        axes.plot(list(finite), list(finite.values()), color=color, linestyle=dash, marker="o", markersize=4)
        for rate in best.keys() - finite.keys():
            axes.plot(rate, 0.97, "x", color=color, markersize=6, transform=axes.get_xaxis_transform())
    axes.set_xscale("log")
    rates = sorted({rate for by_rate in tried.values() for rate in by_rate})
    axes.set_xticks(_apart(rates))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(value))))
    axes.margins(x=0.08, y=0.12)
    _label(axes, "peak learning rate (log scale)", "final validation loss")
    return _svg(figure, "Final validation loss against learning rate", "learning-rates")


def _apart(rates: list[float]) -> list[float]:
    """Those of the sorted rates whose labels do not run into each other on a log axis: a sixth of its width apart."""
    kept = rates[:1]
    for rate in rates[1:]:
        if (rate / kept[-1]) ** 6 >= rates[-1] / rates[0]:
            kept.append(rate)
    return kept


def _mean_by_arm(comparison: Comparison, measure: Callable[[Run], list[float] | None]) -> dict[str, np.ndarray]:
    """Mean of a measure over the finished runs of each compared arm, where all of them know it."""
    means = {}
    for standing in comparison.standings:
        found = [measure(run) for run in (standing.arm.finished(comparison.length) if comparison.length else [])]
        known = [values for values in found if values is not None]
        if known and len(known) == len(found):
            means[standing.arm.label] = np.mean(known, axis=0)
    return means


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Inches at 72 points: an SVG of 266 points shown 350 pixels wide has letters of 11 pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _bars(count: int) -> tuple[Figure, Axes]:
    figure, axes = _canvas(3.7, 0.85 + 0.3 * count)
    axes.grid(False)
    axes.margins(x=0.16)
    return figure, axes


def _name_bars(axes: Axes, labels: Sequence[str], unit: str) -> None:
    axes.set_yticks(range(len(labels)), [label if len(label) < 24 else label[:22] + "…" for label in labels])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=8.5, color="#333333")
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _svg(figure: Figure, title: str, name: str) -> str:
    """The figure as an element of a page: no file header, no metadata, identifiers that no other figure has."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
