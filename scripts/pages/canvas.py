"""Makes the canvas of every figure, and writes it as part of a page or as a file: the same runs, the same bytes."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from conventions.config_keys import optimizer_label
from conventions.quantity import short
from judge.comparison import Comparison

# After Okabe and Ito, whose colours colour-blind readers tell apart; the light ones are darker here, to stand out from
# white by 3 to 1. The baseline is the black one. Dashes and marks say the same once more, for print without colours.
INK = ["#000000", "#0072B2", "#D55E00", "#009E73", "#C0649A", "#B87F00", "#2F93CC"]
DASHES: list[Any] = [
    "-",
    (0, (6, 2)),
    (0, (2.5, 1.2)),
    (0, (7, 2, 1.5, 2)),
    (0, (5, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (9, 3)),
    (0, (1.2, 1.2)),
]
MARKS = ["o", "s", "^", "D", "v", "P", "X"]
GREY = "#6b6b6b"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "svg.hashsalt": "halfstep",
    "pdf.fonttype": 42,  # whole letters, as journals ask for
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
    "hatch.linewidth": 0.6,
}
# No dates and no versions: they would make other bytes of the same figure.
SILENT: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Style:
    """Says how an arm looks in every figure, and what it is called there."""

    name: str
    color: str
    dash: Any  # a dash pattern as matplotlib takes it
    mark: str


@dataclass(frozen=True)
class Drawing:
    """One figure. name: of its file, and what its identifiers begin with. title: for those who do not see it."""

    figure: Figure
    name: str
    title: str

    def svg(self) -> str:
        """Return an element of a page: no file header, no metadata, identifiers that no other figure has."""
        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", metadata=SILENT["svg"], transparent=True)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        # A hundredth of a point is finer than any screen.
        text = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        return text.replace("<svg ", f'<svg role="img" aria-label="{self.title}" ', 1)

    def save(self, path: Path) -> None:
        """Write a file of the kind that its name ends with, with a legend, whole or not at all."""
        draft = path.with_name(f".{path.name}.new")
        draft.write_bytes(self.file(path.suffix.removeprefix(".")))
        draft.replace(path)

    def file(self, kind: str) -> bytes:
        """Return what a file of this kind holds; letters are shapes, which need no font where it is shown."""
        buffer = io.BytesIO()
        named = {label: handle for axes in self.figure.axes
                 for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
        with matplotlib.rc_context({**STYLE, "svg.fonttype": "path"}):
            if named and not self.figure.legends:
                rows = -(-len(named) // 4)
                self.figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=-(-len(named) // rows),
                                   frameon=False, fontsize=8, handlelength=2.6)  # fmt: skip
            self.figure.savefig(buffer, format=kind, metadata=SILENT[kind], dpi=300)
        return buffer.getvalue()


def style_of(comparison: Comparison) -> dict[str, Style]:
    """Return the style of each compared arm, by its label. An arm stands for its optimizer and has its short name."""
    standings = comparison.standings
    names = [optimizer_label({"_target_": each.optimizer}) for each in standings]
    return {
        each.arm.label: style(i, name if names.count(name) == 1 else each.optimizer)
        for i, (each, name) in enumerate(zip(standings, names, strict=True))
    }


def by_optimizer(comparison: Comparison) -> dict[str, Style]:
    """Return the style of each arm by the name that runs give their optimizer."""
    styles = style_of(comparison)
    return {each.optimizer: styles[each.arm.label] for each in comparison.standings}


def style(number: int, name: str) -> Style:
    """Give arm `number` (from 0) a colour, a dash and a mark; no two arms are alike until all combinations are used."""
    again = number + number // len(INK)
    return Style(name, INK[number % len(INK)], DASHES[again % len(DASHES)], MARKS[again % len(MARKS)])


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a canvas of so many inches of 72 points: in an SVG of 266 points on 350 pixels letters have 11 pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def panels(number: int, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """Make a canvas of small panels with a common scale of y, row by row."""
    rows = -(-number // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.5 + 1.75 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        every = list(grid.flat)
        for axes in every:
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
            axes.set_axisbelow(True)
        for axes in every[number:]:
            axes.set_visible(False)
    return figure, every[:number]


def caption(axes: Axes, x: str, y: str) -> None:
    """Name what the axes show; y stands above its axis, where it takes no width."""
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=8.5, color="#333333")


def ticks(axes: Axes, axis: str, scale: str) -> None:
    """Put few round numbers along "x" or "y", on a linear or log scale."""
    which = getattr(axes, f"{axis}axis")
    if scale == "log":
        getattr(axes, f"set_{axis}scale")("log")
        low, high = sorted(which.get_view_interval())
        decades = high / max(low, 1e-300)
        # A loss hardly spans a decade: there, round numbers of the linear scale.
        subs = (1, 2, 5) if decades < 120 else (1, 3) if decades < 3000 else (1,)
        spaced = LogLocator(subs=subs, numticks=8)
        which.set_major_locator(MaxNLocator(6) if decades < 8 else spaced)
        which.set_minor_locator(NullLocator())
        which.set_minor_formatter(NullFormatter())
    # Losses take equally many digits; costs are counts, of any size.
    which.set_major_formatter(ScalarFormatter() if axis == "y" else FuncFormatter(lambda value, _: short(value)))


def bars(labels: Sequence[str], unit: str) -> tuple[Figure, Axes]:
    """Make a canvas for a horizontal bar per label, from the top down."""
    figure, axes = canvas(3.7, 0.85 + 0.3 * len(labels))
    axes.grid(False)
    axes.margins(x=0.16)
    axes.set_yticks(range(len(labels)), [label if len(label) < 24 else label[:22] + "…" for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(unit)
    return figure, axes


def total(axes: Axes, row: int, value: float) -> None:
    """Write the number at the end of a bar."""
    axes.annotate(short(value), (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
