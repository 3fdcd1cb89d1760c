"""One power law of final loss over the length of a run, fitted by weighted least squares.

    L(T) = a - b (1 - x^-c) / c,   x = T / unit,   b > 0, c in [-2, 4]

That is the usual a' + b' T^-c with b' = b / c, written so that it goes on through c = 0, where it is a straight line
in log T. Three rungs that fall are met exactly. Losses of language models have c well between .1 and 1; a fit outside
says that the ladder is no power law, or that its noise hides which.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.optimize import minimize_scalar

BOUNDS = (-2.0, 4.0)  # where the fit looks for c
USUAL = (0.1, 1.0)  # where c of a language model lies


class Law:
    """The law that fits some rungs best, and how each rung's mean moves it.

    lengths: in updates, (K,), at least three. means: final losses, (K,), nats per token. counts: seeds, (K,).
    """

    def __init__(self, lengths: np.ndarray, means: np.ndarray, counts: np.ndarray) -> None:
        self.center = float(np.log(lengths).mean())  # the log of the unit
        self._logs, self._means, self._counts = np.log(lengths) - self.center, means, counts
        grid = np.linspace(*BOUNDS, 31)  # first a grid, should there be two minima
        nearest = int(np.argmin([self._given(c)[0] for c in grid]))
        near = grid[max(0, nearest - 1)], grid[min(len(grid) - 1, nearest + 1)]
        minimum = minimize_scalar(lambda c: self._given(c)[0], bounds=near, method="bounded", options={"xatol": 1e-9})
        self.c = float(min((minimum.x, *BOUNDS), key=lambda c: self._given(c)[0]))
        self.rest, self.a, self.b = self._given(self.c)  # rest: sum of squared residuals, seeds as weights

    def _given(self, c: float) -> tuple[float, float, float]:
        """Return the weighted sum of squared residuals, a and b at a given c: a and b are linear."""
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
        return self.a - self.b * float(_rise(np.array(math.log(length) - self.center), self.c))

    def influence(self, length: float) -> np.ndarray:
        """Return by how much `loss(length)` moves with the mean of each rung, (K,), by the delta method."""
        return self._gradient(np.array([math.log(length) - self.center]))[0] @ self._pull

    def slope(self, length: float) -> tuple[float, float]:
        """Return -dL / d ln T at a length, nats, and its standard error in units of sigma."""
        z = math.log(length) - self.center
        moved = np.array([0.0, 1.0, -self.b * z])[: len(self._pull)] * math.exp(-self.c * z) @ self._pull
        return self.b * math.exp(-self.c * z), math.sqrt(float((moved**2 / self._counts).sum()))

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
