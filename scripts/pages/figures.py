"""Draws the figures that show losses: curves, the ladder, learning rates. bars.py draws what they cost."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from conventions.config_keys import plain
from conventions.quantity import TITLE
from judge.arms import Arm
from judge.comparison import Comparison
from judge.ladder import RUNGS
from judge.means import curves_of
from judge.speedup import ladder_of, matched_length
from scripts.pages.canvas import GREY, Drawing, by_optimizer, canvas, caption, style_of, ticks

# Scales of the curves: x, y. The first tenth of training falls off a cliff, which a logarithm of x spreads out.
FINEST = 250  # points of a curve: as many as its width shows
SCALES = {"linear": ("linear", "linear"), "log x": ("log", "linear"), "log-log": ("log", "log")}


def curves(comparison: Comparison, axis: str, scale: str = "linear") -> Drawing | None:
    """Draw validation loss against steps, FLOPs or seconds; None where nobody knows them.

    On the linear scale the cliff of the first tenth would flatten everything else, so it runs off the top.
    """
    x_scale, y_scale = SCALES[scale]
    figure, axes = canvas(3.7, 2.9)
    heights, lowest, left, right = [], [], [], []
    for label, curve, seeds in curves_of(comparison, axis):
        kept = thinned([i for i, point in enumerate(curve) if x_scale == "linear" or getattr(point, axis) > 0], x_scale)
        if len(kept) < 2:
            continue
        curve, seeds = [curve[i] for i in kept], seeds[kept]
        x, y = [getattr(point, axis) for point in curve], [point.loss for point in curve]
        style = style_of(comparison)[label]
        front = 4 if label == comparison.standings[0].arm.label else 3
        axes.plot(x, y, color=style.color, linestyle=style.dash, zorder=front, label=style.name)
        axes.plot(x[-1], y[-1], style.mark, color=style.color, markersize=4, clip_on=False, zorder=5)
        if seeds.shape[1] > 1:
            axes.fill_between(x, seeds.min(axis=1), seeds.max(axis=1), color=style.color, alpha=0.18, linewidth=0)
        cliff = comparison.length / 10 if comparison.length and x_scale == "linear" else 0
        heights.append(next(max(losses) for point, losses in zip(curve, seeds, strict=True) if point.steps >= cliff))
        lowest.append(seeds.min())
        left.append(x[0])
        right.append(x[-1])
    if not heights or max(right) <= 0:
        return None
    span = max(heights) - min(lowest) or 1.0  # a loss that never changed
    axes.set_ylim(min(lowest) - 0.06 * span, max(heights) + 0.04 * span)
    if comparison.target is not None:
        axes.axhline(comparison.target, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    if x_scale == "linear":
        axes.set_xlim(0, 1.03 * max(right))
    else:
        axes.set_xlim(0.95 * min(left), 1.08 * max(right))
    ticks(axes, "x", x_scale)
    ticks(axes, "y", y_scale)
    logs = f" ({scale} scale)" if x_scale == "log" else ""
    caption(axes, (_updates(comparison) if axis == "steps" else TITLE[axis]) + logs, "validation loss, nats per token")
    return Drawing(figure, f"curves-{axis}-{scale.replace(' ', '-')}", f"Validation loss against {TITLE[axis]}{logs}")


def _updates(comparison: Comparison) -> str:
    """Say what a step is: all compared runs take equally many tokens per update."""
    tokens = next((run.known("tokens_per_step") for run in comparison.runs if run.known("tokens_per_step")), None)
    return f"updates of {tokens:,} tokens" if tokens else "updates"


def thinned(points: list[int], scale: str) -> list[int]:
    """Keep at most FINEST of the points, the first and the last among them, as evenly as the scale of x shows them."""
    if len(points) <= FINEST:
        return points
    last = len(points) - 1
    shares = np.linspace(0, last, FINEST) if scale == "linear" else np.geomspace(1, last + 1, FINEST) - 1
    return [points[i] for i in sorted(set(shares.round().astype(int).tolist()))]


def ladder(comparison: Comparison) -> Drawing | None:
    """Draw final loss against length: the baseline's law, and how far from it newcomers lie. None without a law."""
    base = comparison.standings[0].arm
    if len(base.lengths) < RUNGS or not ladder_of(base).falls:
        return None
    rungs, styles = ladder_of(base), style_of(comparison)
    figure, axes = canvas(4.4, 3.0)
    labels: list[tuple[float, float, str, str]] = []  # loss, length, text, colour
    lengths = np.geomspace(rungs.lengths[0], rungs.lengths[-1], 100)
    law = [rungs.loss(length) for length in lengths]
    axes.plot(lengths, law, color=styles[base.label].color, zorder=2)
    axes.annotate(styles[base.label].name, (lengths[12], law[12]), xytext=(5, 4), textcoords="offset points")
    for standing in comparison.standings:
        arm, style = standing.arm, styles[standing.arm.label]
        for length in arm.lengths:
            losses, at_length = arm.losses(length), [length] * len(arm.losses(length))
            axes.plot(at_length, losses, style.mark, color=style.color, markersize=3, alpha=0.45, markeredgewidth=0)
            axes.plot(length, losses.mean(), "_", color=style.color, markersize=13, markeredgewidth=1.6, zorder=3)
        at = matched_length(base, arm) if arm is not base else None
        row = next((row for row in comparison.rows if row.arm == arm.label and row.rule == "matched"), None)
        if at and row and row.speedup.value:
            loss, reach = float(arm.losses(at).mean()), row.speedup.value * at
            on = row.speedup.censored is None
            labels.append((loss, max(at, reach) if on else at, f"{style.name} {row.speedup}x", style.color))
            if on:
                axes.plot([at, reach], [loss, loss], color=style.color, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
                axes.plot(reach, loss, style.mark, markersize=5, markerfacecolor="white",
                          markeredgecolor=style.color, zorder=4)  # fmt: skip
    room, lowest = 0.055 * float(np.ptp(axes.get_ylim())), -np.inf  # the height of a line of text
    for height, right, text, color in sorted(labels):
        lowest = max(height, lowest + room)
        axes.annotate(text, (right, lowest), xytext=(11, 0), textcoords="offset points", va="center", color=color)
    axes.set_xscale("log")
    marks = sorted({float(length) for standing in comparison.standings for length in standing.arm.lengths})
    axes.set_xticks(apart(marks, 7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.1)
    caption(axes, "length of the run, updates (log scale)", "final validation loss, nats per token")
    return Drawing(figure, "ladder", "Final validation loss against the length of the run")


def learning_rates(comparison: Comparison) -> Drawing | None:
    """Draw final loss against learning rate for optimizers that tried several; a cross at the top is a divergence."""
    length = comparison.length
    tried: dict[str, dict[float, list[Arm]]] = {}
    for arm in comparison.arms:
        rate = arm.settings.get("optimizer.lr")
        if isinstance(rate, int | float) and length and (arm.lengths.count(length) or arm.diverged(length)):
            tried.setdefault(arm.optimizer, {}).setdefault(float(rate), []).append(arm)
    tried = {optimizer: by_rate for optimizer, by_rate in tried.items() if len(by_rate) > 1}
    if not tried or length is None:
        return None
    figure, axes = canvas(4.4, 2.8)
    styles = by_optimizer(comparison)
    for optimizer, by_rate in tried.items():
        style = styles[optimizer]
        best = {rate: min(arm.mean_loss(length) for arm in by_rate[rate]) for rate in sorted(by_rate)}
        finite = {rate: loss for rate, loss in best.items() if np.isfinite(loss)}
        axes.plot(list(finite), list(finite.values()), color=style.color, linestyle=style.dash, marker=style.mark,
                  markersize=4, label=style.name)  # fmt: skip
        for rate in best.keys() - finite.keys():
            axes.plot(rate, 0.97, "x", color=style.color, markersize=6, transform=axes.get_xaxis_transform())
    rates(axes, sorted({rate for by_rate in tried.values() for rate in by_rate}))
    return Drawing(figure, "learning-rates", "Final validation loss against learning rate")


def apart(values: list[float], most: int) -> list[float]:
    """Keep those of some increasing values whose labels do not run into each other along a log axis that has `most`."""
    kept = values[:1]
    for value in values[1:]:
        if (value / kept[-1]) ** most >= values[-1] / values[0]:
            kept.append(value)
    return kept


def rates(axes: Axes, tried: list[float]) -> None:
    """Put learning rates along x, and losses along y."""
    axes.set_xscale("log")
    axes.set_xticks(apart(tried, 6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(value))))
    axes.margins(x=0.08, y=0.12)
    caption(axes, "peak learning rate (log scale)", "final validation loss, nats per token")
