"""Laws of final loss over the length of a run, fitted by weighted least squares: a power law, and a second one.

    L(T) = a - b (1 - x^-c) / c,   x = (T - warm-up) / unit,   b > 0, c in [-2, 4]

That is the usual a' + b' x^-c with b' = b / c, written so that it goes on through c = 0, where it is a straight line
in log x. Three rungs that fall are met exactly. Losses of language models have c well between .1 and 1; a fit outside
says that the ladder is no power law, or that its noise hides which. At a given c the law is linear in a and b, so that
only c is searched (variable projection, Golub and Pereyra, 1973).

The second law is a parabola in log x, of three numbers too. What it answers is shown beside, and shows how much of a
figure is the law's: .3 % of a speed-up of 1.4 on a true c of .35, and 2.6 % on a true c of 1.

The warm-up comes off the length where it is a fixed number of updates. A share of the length needs nothing.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.optimize import minimize_scalar

BOUNDS = (-2.0, 4.0)  # where the fit looks for c
USUAL = (0.1, 1.0)  # where c of a language model lies


class Law:
    """The power law that fits some rungs best, and how each rung's mean moves it.

    lengths: in updates, (K,), at least three. means: final losses, (K,), nats per token. counts: seeds, (K,).
    warmup: updates, of every run.
    """

    a: float  # the loss at the unit
    b: float  # its fall there, in nats for an e-fold of the length: above 0, or the law does not fall
    rest: float  # sum of squared residuals, seeds as weights

    def __init__(self, lengths: np.ndarray, means: np.ndarray, counts: np.ndarray, warmup: float = 0.0) -> None:
        self.warmup = warmup
        self.center = float(np.log(lengths - warmup).mean())  # the log of the unit
        self._logs, self._means, self._counts = np.log(lengths - warmup) - self.center, means, counts
        self._fit()

    def _fit(self) -> None:
        grid = np.linspace(*BOUNDS, 31)  # first a grid, should there be two minima
        nearest = int(np.argmin([self._at(c)[0] for c in grid.tolist()]))
        near = grid[max(0, nearest - 1)], grid[min(len(grid) - 1, nearest + 1)]
        minimum = minimize_scalar(lambda c: self._at(c)[0], bounds=near, method="bounded", options={"xatol": 1e-9})
        self.c = float(min((minimum.x, *BOUNDS), key=lambda c: self._at(c)[0]))
        self.rest, self.a, self.b = self._at(self.c)

    def _at(self, c: float) -> tuple[float, float, float]:
        """Return the weighted sum of squared residuals, a and b of the best law with this c."""
        weights, y = self._counts / self._counts.sum(), self._means
        x = _rise(self._logs, c)
        dx, dy = x - weights @ x, y - weights @ y
        b = -float((weights * dx) @ dy / ((weights * dx) @ dx))
        return float(self._counts @ (dy + b * dx) ** 2), float(weights @ (y + b * x)), b

    @property
    def free(self) -> bool:
        """Return whether c lies inside its bounds; at a bound it counts as known."""
        return BOUNDS[0] < self.c < BOUNDS[1]

    def loss(self, length: float) -> float:
        """Return the law's loss after so many updates, nats per token."""
        return self.a - self.b * float(_rise(self._log(length), self.c)[0])

    def influence(self, length: float) -> np.ndarray:
        """Return by how much `loss(length)` moves with the mean of each rung, (K,), by the delta method."""
        return self._gradient(self._log(length))[0] @ self._pull

    def slope(self, length: float) -> tuple[float, float]:
        """Return -dL / d ln T at a length, nats, and its standard error in units of sigma."""
        z, stretch = float(self._log(length)[0]), length / (length - self.warmup)
        fall = math.exp(-self.c * z) * stretch
        moved = np.array([0.0, 1.0, -self.b * z])[: len(self._pull)] * fall @ self._pull
        return self.b * fall, math.sqrt(float((moved**2 / self._counts).sum()))

    def _log(self, length: float) -> np.ndarray:
        return np.array([math.log(length - self.warmup) - self.center])

    @cached_property
    def _pull(self) -> np.ndarray:
        """Return by how much a, b and a free c move with the mean of each rung, (3 or 2, K): (J' W J)^-1 J' W."""
        gradients = self._gradient(self._logs)
        weighted = gradients.T * self._counts
        return np.linalg.solve(weighted @ gradients, weighted)

    def _gradient(self, logs: np.ndarray) -> np.ndarray:
        """Return d loss / d (a, b, c), a row for each log length: (K, 3), or (K, 2) where c is at a bound."""
        c = self.c
        series = -(logs**2) / 2 + c * logs**3 / 3  # of d rise / d c, where its own form would be 0 / 0
        bend = series if abs(c) < 1e-3 else (logs * np.exp(-c * logs) - _rise(logs, c)) / c
        columns = [np.ones_like(logs), -_rise(logs, c), *([-self.b * bend] if self.free else [])]
        return np.stack(columns, axis=1)


class Parabola(Law):
    """The parabola in log x that fits some rungs best."""

    free = True

    def _fit(self) -> None:
        self._numbers = self._pull @ self._means
        self.a, self.b = float(self._numbers[0]), float(self._numbers[1])
        self.rest = float(self._counts @ (self._means - self._gradient(self._logs) @ self._numbers) ** 2)

    def loss(self, length: float) -> float:
        return float(self._gradient(self._log(length))[0] @ self._numbers)

    def _gradient(self, logs: np.ndarray) -> np.ndarray:
        return np.stack([np.ones_like(logs), -logs, logs**2], axis=1)


def _rise(logs: np.ndarray, c: float) -> np.ndarray:
    """Return (1 - x^-c) / c at ln x, which is ln x at c = 0."""
    return -np.expm1(-c * logs) / c if abs(c) > 1e-9 else logs


def neighbourhood(lengths: Sequence[float], rung: int) -> tuple[int, ...]:
    """Return the rungs that the law at one rung is fitted to: it, the next on both sides, and all within a factor of 2.

    At the end of a ladder these are the last three.
    """
    first = min(max(0, rung - 1), len(lengths) - 3)
    near = {k for k, length in enumerate(lengths) if 0.499 < length / lengths[rung] < 2.001}
    return tuple(sorted(near | {first, first + 1, first + 2}))
