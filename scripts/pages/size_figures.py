"""Draws speed-ups over the size of the model and over the tokens, a panel for each optimizer."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from conventions.quantity import short
from judge.public.study import PublicStudy
from judge.public.tables import by_choice
from judge.scale import FARTHEST, Figure, figures, trend
from scripts.pages.canvas import GREY, INK, MARKS, Drawing, panels

HEIGHTS = (0.5, 0.7, 1.0, 1.4, 2.0)  # where the axis of speed-ups has a line


def study_figures(study: PublicStudy) -> dict[str, Drawing]:
    """Return the figures of a public study by the names of their files; none of a study of one size."""
    own = figures(by_choice(study.cells, study.losses), study.baseline, study.declared, study.rule)
    return {f"{study.name}-{each.name}.svg": each for each in size_figures(own, study.baseline)}


def size_figures(speedups: Sequence[Figure], baseline: str) -> list[Drawing]:
    """Return a figure over parameters, with the fit of each optimizer, and one over tokens; none below three sizes."""
    names = sorted({each.cell.arm for each in speedups}, key=str.lower)
    if len({each.cell.parameters for each in speedups}) < 3:
        return []
    over_size, over_tokens = panels(len(names)), panels(len(names))
    budgets = sorted({each.cell.budget for each in speedups}, key=lambda text: (len(text), text))
    sizes = {each.cell.size: each.cell.parameters for each in speedups}
    for name, by_size, by_tokens in zip(names, over_size[1], over_tokens[1], strict=True):
        own = [each for each in speedups if each.cell.arm == name]
        _points(by_size, own, budgets, lambda each: each.cell.budget, lambda each: each.cell.parameters)
        _points(by_tokens, own, sorted(sizes, key=sizes.__getitem__), lambda each: each.cell.size,
                lambda each: each.cell.tokens)  # fmt: skip
        _fit(by_size, own)
        parameters = [each.cell.parameters for each in speedups]
        _finish(by_size, name, "parameters", min(parameters), FARTHEST * max(parameters))
        tokens = [each.cell.tokens for each in speedups]
        _finish(by_tokens, name, "tokens", min(tokens), max(tokens))
    whole, ahead = f"Speed-up over {baseline} in tokens over", f"dashed: a PROJECTION to {FARTHEST} times the largest"
    hollow = f"hollow: the truth lies beyond the lengths of {baseline}"
    return [
        Drawing(over_size[0], "parameters", f"{whole} parameters, a mark for each budget; {hollow}; {ahead}"),
        Drawing(over_tokens[0], "tokens", f"{whole} tokens, a mark for each size; {hollow}"),
    ]


def _points(
    axes: Axes, own: Sequence[Figure], groups: Sequence[str], group: Callable[[Figure], str],
    x: Callable[[Figure], float],
) -> None:  # fmt: skip
    """Draw a mark for each cell, another kind for each group; a hollow one where the truth lies beyond the ladder."""
    for i, name in enumerate(groups):
        color, mark = INK[i % len(INK)], MARKS[i % len(MARKS)]
        axes.plot([], [], mark, color=color, markersize=4, label=name)
        for each in own:
            if group(each) == name and each.speedup.value:
                face = "white" if each.speedup.censored else color
                axes.plot(x(each), each.speedup.value, mark, color=color, markersize=4, markerfacecolor=face, zorder=3)


def _fit(axes: Axes, own: Sequence[Figure]) -> None:
    """Draw the line through the sizes with its interval, and dashed where it is a projection."""
    line = trend(own)
    if line is None:
        return
    first = min(each.cell.parameters for each in own)
    for ends, dash, alpha in (
        ((first, line.largest), "-", 0.15),
        ((line.largest, FARTHEST * line.largest), (0, (3, 2)), 0.07),
    ):
        at = np.geomspace(*ends, 30)
        speedups = [line.at(size) for size in at]
        axes.plot(at, [each.value or 0 for each in speedups], color=GREY, linewidth=1, linestyle=dash, zorder=2)
        axes.fill_between(at, [each.low or 0 for each in speedups], [each.high or 0 for each in speedups],
                          color=GREY, alpha=alpha, linewidth=0)  # fmt: skip


def _finish(axes: Axes, name: str, unit: str, first: float, last: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.85 * first, 1.15 * last)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if last < 100 * first else (1,)))
    axes.set_yscale("log")
    axes.set_ylim(HEIGHTS[0], HEIGHTS[-1])
    axes.set_yticks(HEIGHTS)
    axes.axhline(1, color="#333333", linewidth=0.8, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.set_title(name, loc="left", fontsize=8.5, color="#333333")
    axes.set_xlabel(unit)


def _count(value: float) -> str:
    return f"{value / 1e9:g}B" if value >= 1e9 else f"{value / 1e6:g}M" if value >= 1e6 else short(value)
