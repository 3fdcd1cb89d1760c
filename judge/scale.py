"""The change of a speed-up with the size of the model: cells of size and budget, a fit over sizes, a projection.

    S = T_base(L_new(T)) / T in every cell, by the baseline's ladder over budgets of the same size
    ln S = p + q ln N        fitted to the mean of ln S of each size, N parameters

q is the exponent, and its interval Student's t over sizes: cells of one size share the baseline's ladder, and are no
separate witnesses. With few sizes that interval is wide. The one over cells, shown beside it, holds if they were
independent, and is too narrow if they are not. A cell beyond the ladder says above or below only, and takes no part.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from conventions.sentence import nearest
from judge.declared import NOTHING, Declared
from judge.estimate import Speedup
from judge.isoloss import at_one_loss, isoloss
from judge.ladder import Ladder
from judge.public.cell import Cell
from judge.readers.log import Line
from judge.spread import CONFIDENCE

SIZES = 3  # a line through two has no error to speak of
FARTHEST = 4  # times the largest size: a projection stops there


@dataclass(frozen=True)
class Figure:
    """The speed-up in one cell, in tokens. `room`: whether the baseline has longer runs, so that a gain can show."""

    cell: Cell
    speedup: Speedup
    room: bool = True


@dataclass(frozen=True)
class Trend:
    """The line ln S = mean + exponent (ln N - center) through the sizes."""

    mean: float
    exponent: float
    center: float  # mean of ln N
    spread: float  # of ln N: its sum of squares about the center
    error: float  # standard deviation of a size about the line
    points: int  # sizes, or cells
    largest: float  # parameters

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the exponent."""
        width = self._t * self.error / math.sqrt(self.spread)
        return self.exponent - width, self.exponent + width

    def at(self, parameters: float) -> Speedup:
        """Return the line at a size with its 95 % interval; ValueError beyond four times the largest."""
        if parameters > FARTHEST * self.largest * (1 + 1e-9):
            raise ValueError(f"a projection stops at {FARTHEST} times the largest size, {self.largest:.3g} parameters")
        away = math.log(parameters) - self.center
        value = self.mean + self.exponent * away
        width = self._t * self.error * math.sqrt(1 / self.points + away**2 / self.spread)
        return Speedup(math.exp(value), math.exp(value - width), math.exp(value + width))

    @property
    def _t(self) -> float:
        return float(stdtrit(self.points - 2, (1 + CONFIDENCE) / 2))


def cells_of(lines: Iterable[Line], keys: Mapping[str, str], where: str) -> Iterator[Cell]:
    """Yield the cells of a table's lines that have a loss.

    Args:
        keys: the columns of the optimizer, size, parameters, tokens, budget and loss.
        where: the file, for errors.

    Raises:
        ValueError: a line has no such column, or no number there.
    """
    for line in lines:
        values = line.values
        for key in (keys["optimizer"], keys["size"], keys["parameters"], keys["tokens"]):
            if key not in values:
                raise ValueError(f"{where}, line {line.number}, has no {key}: {nearest(key, list(values))}")
        if keys["loss"] in values:
            try:
                numbers = [float(values[keys[key]]) for key in ("parameters", "tokens", "loss")]
            except ValueError as error:
                raise ValueError(f"{where}, line {line.number}: {error}") from None
            budget = str(values.get(keys["budget"], "")).removesuffix(".0")
            name, size = str(values[keys["optimizer"]]), str(values[keys["size"]])
            yield Cell(name, size, numbers[0], int(numbers[1]), (numbers[2],), budget)


def figures(cells: Sequence[Cell], baseline: str, declared: Declared = NOTHING, rule: str = "matched") -> list[Figure]:
    """Return the speed-up of every cell that is not the baseline's, where the baseline has cells of that size.

    declared: a sigma where seeds are few; for the rule isoloss a slope.
    Raises ValueError if the baseline has no cell at all, or isoloss no slope.
    """
    bases: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.arm == baseline:
            bases.setdefault(cell.size, []).append(cell)
    if not bases:
        names = sorted({cell.arm for cell in cells})
        raise ValueError(f"no cell is of the baseline {baseline!r}: {nearest(baseline, names)}")
    others = [cell for cell in cells if cell.arm != baseline and cell.size in bases]
    if rule == isoloss.__name__:
        return [Figure(cell, _at_one_loss(bases[cell.size], cell, declared)) for cell in others]
    ladders = {size: Ladder(_by_length(own)) for size, own in bases.items()}
    return [
        Figure(
            cell,
            ladders[cell.size].reach(cell.losses, cell.tokens, declared.sigma),
            cell.tokens < ladders[cell.size].lengths[-1],
        )
        for cell in others
    ]


def _by_length(cells: Sequence[Cell]) -> dict[int, list[float]]:
    losses: dict[int, list[float]] = {}
    for cell in cells:
        losses.setdefault(cell.tokens, []).extend(cell.losses)
    return losses


def _at_one_loss(bases: Sequence[Cell], cell: Cell, declared: Declared) -> Speedup:
    """Return the speed-up over the baseline's cell that ended nearest; unknown where that is not near enough."""
    if declared.slope is None:
        raise ValueError("the rule isoloss of a table needs a declared slope (--slope, --slope-from)")
    losses = np.array(cell.losses)
    base = min(bases, key=lambda base: abs(float(np.mean(base.losses) - losses.mean())))
    if abs(float(np.mean(base.losses) - losses.mean())) > declared.within:
        return Speedup(None)
    own = base.tokens, np.array(base.losses)
    return at_one_loss(own, (cell.tokens, losses), declared.slope, declared.sigma)


def trend(figures: Sequence[Figure], over_cells: bool = False) -> Trend | None:
    """Fit a line through an optimizer's sizes, or its cells; None below three sizes with a figure inside the ladder."""
    by_size: dict[float, list[float]] = {}
    for figure in figures:
        if figure.speedup.value and not figure.speedup.censored:
            by_size.setdefault(figure.cell.parameters, []).append(math.log(figure.speedup.value))
    if len(by_size) < SIZES:
        return None
    means = {size: [float(np.mean(logs))] for size, logs in by_size.items()}
    points = [(math.log(size), log) for size, logs in (by_size if over_cells else means).items() for log in logs]
    x, y = np.array(points).T
    dx = x - x.mean()
    exponent = float(dx @ y / (dx @ dx))
    rest = y - y.mean() - exponent * dx
    error = math.sqrt(rest @ rest / (len(x) - 2))
    return Trend(float(y.mean()), exponent, float(x.mean()), float(dx @ dx), error, len(x), max(by_size))
