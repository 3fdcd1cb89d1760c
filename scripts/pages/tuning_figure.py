"""Draws an optimizer's tuning: the loss against the learning rate, with the divergences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conventions.config_keys import optimizer_label
from judge.tuning.trials import Tuning
from scripts.pages.canvas import Drawing, Style, canvas, caption, style, ticks

KINDS = ("svg", "png")
Point = tuple[float, float]


def learning_rates(
    tunings: Mapping[str, Tuning], name: str = "learning-rates", styles: Mapping[str, Style] | None = None
) -> Drawing | None:
    """Draw the final loss of every trial against what it searched first; None if there is nothing to draw.

    Small marks are trials, large ones the runs at full length, the chosen one filled, and a cross at the top is a
    divergence. The line leaves out trials that other keys spoilt. The figure leaves out an optimizer that searches
    another key first.
    styles: how the other figures of a page show these optimizers.
    """
    first = {optimizer: next(iter(tuning.space)) for optimizer, tuning in tunings.items() if tuning.space}
    if not first:
        return None
    key = max(first.values(), key=list(first.values()).count)
    figure, axes = canvas(4.8, 3.1)
    for i, optimizer in enumerate(name for name in first if first[name] == key):
        known, short = styles or {}, optimizer_label({"_target_": optimizer})
        tuning, look = tunings[optimizer], known.get(optimizer) or style(len(known) + i, short)
        color, mark = look.color, look.mark
        points = sorted((run.settings[key], run.loss) for run in tuning.trials if run.loss is not None)
        axes.plot(*_split(points), linestyle="", marker=mark, color=color, markersize=4, alpha=0.75)
        axes.plot(*_split(_envelope(points)), color=color, linestyle=look.dash, linewidth=1, marker=mark,
                  markersize=4, label=look.name)  # fmt: skip
        again = [(run.settings[key], run.loss) for run in tuning.again if run.loss is not None]
        large: Any = {"linestyle": "", "marker": mark, "markersize": 8}
        axes.plot(*_split(again), **large, markerfacecolor="white", markeredgecolor=color)
        chosen = [(tuning.best.settings[key], tuning.best.loss)] if tuning.best and tuning.best.loss else []
        axes.plot(*_split(chosen), **large, color=color, zorder=5)
        lost = [run.settings[key] for run in [*tuning.trials, *tuning.again] if run.status == "diverged"]
        height, above = [0.97 - 0.05 * i] * len(lost), axes.get_xaxis_transform()
        axes.plot(lost, height, "x", color=color, markersize=6, transform=above, clip_on=False)
    axes.margins(x=0.06, y=0.12)
    ticks(axes, "x", "log")
    caption(axes, f"{key} (log scale)", "final validation loss (x: diverged)")
    return Drawing(figure, name, f"Final validation loss against {key}")


def save(tunings: Mapping[str, Tuning], stem: Path) -> list[Path]:
    """Save an SVG and a PNG; return their paths."""
    drawing = learning_rates(tunings)
    if drawing is None:
        return []
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in KINDS]
    for path in paths:
        drawing.save(path)
    return paths


def _envelope(points: list[Point]) -> list[Point]:
    """Leave out the trials with lower ones on both sides: their other keys spoilt them, not the rate."""

    def hidden(value: float, loss: float) -> bool:
        left = [other for at, other in points if at < value]
        right = [other for at, other in points if at > value]
        return min(left, default=loss) < loss and min(right, default=loss) < loss

    return [point for point in points if not hidden(*point)]


def _split(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [value for value, _ in points], [loss for _, loss in points]
