"""How long would an optimizer have to train to reach a loss? A power law through a ladder of run lengths.

    L(T) = a + b T^-c,   c in [.1, 1],   fitted to final losses of runs each decayed over its own length T

Straight lines between the rungs are not good enough, not even on log-log paper: with rungs at T and 2T they
turn a true speed-up of 1.30 into 1.33, because the curve sags in between.

The interval is a t-test turned around: it holds every length whose loss, by the fit, does not differ from the
other arm's by more than chance. Near the estimate that is the delta method on log T; but it need not be
symmetric, and it never looks beyond the ladder: an end that lies out there stays open.

Each arm has its own sigma, pooled over its lengths, and the degrees of freedom are Welch's. One sigma for both
arms would make the interval 3 % narrower where they are equal; but where the newcomer's is two or three times
the baseline's, as near instability, 95 % would cover 88 or 82 %. Simulated with rungs at T/2, T and 2T and three
seeds, for c from .1 to 1, speed-ups from .8 to 1.67 and seed noise from 2 to 20 % of what doubling T gains, this
interval covers the truth in 94 to 96 % of studies at equal sigmas, and in 93 to 96 % at ratios from .5 to 3
(tests/test_ladder.py). Two arms' runs are taken as independent although they share seeds: what they share makes
the interval too wide, never too narrow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import stdtrit

from judge.declared import Sigma

SHALLOWEST, STEEPEST = 0.1, 1.0  # the range of c: language models' losses lie well inside it
CONFIDENCE = 0.95
RUNGS = 3  # lengths that a law of three numbers needs
SEEDS = 3  # at every length, before there is an interval

Censored = Literal["above", "below"] | None


@dataclass(frozen=True)
class Speedup:
    """A ratio of costs, 2.0 for half the cost, and its 95 % interval.

    Censored: the truth lies "above" or "below" `value`, the last ratio that the ladder can show. `value` is
    None where it is unknown. `low` or `high` is None where the interval runs past the ladder's end; both are
    None where there is no interval at all, for want of seeds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    censored: Censored = None

    def inverse(self) -> "Speedup":
        def flip(ratio: float | None) -> float | None:
            return None if ratio is None else 1 / ratio

        swapped: dict[Censored, Censored] = {"above": "below", "below": "above", None: None}
        return Speedup(flip(self.value), flip(self.high), flip(self.low), swapped[self.censored])

    def times(self, factor: float, blur: float = 0.0) -> "Speedup":
        """Scaled by a measured factor whose own interval has the half-width `blur` on the log scale.

        The two errors are independent: on each side of the estimate they add in quadrature.
        """

        def scale(ratio: float | None, side: int) -> float | None:
            if ratio is None:
                return None
            center = self.value or ratio
            return center * factor * math.exp(side * math.hypot(math.log(ratio / center), blur))

        value = None if self.value is None else self.value * factor
        return Speedup(value, scale(self.low, -1), scale(self.high, 1), self.censored)

    def __str__(self) -> str:
        """`1.42`; `>2` or `<0.5` where the ladder ends; a question mark where nothing is known."""
        if self.value is None:
            return "?"
        return {"above": f">{self.value:.3g}", "below": f"<{self.value:.3g}", None: f"{self.value:.2f}"}[self.censored]

    @property
    def known(self) -> bool:
        """Whether it says anything at all."""
        return self.value is not None or self.interval != ""

    @property
    def interval(self) -> str:
        """`1.31 to 1.55`, with dots at an open end; empty without an interval."""
        if self.low is None and self.high is None:
            return ""
        return " to ".join("…" if end is None else f"{end:.2f}" for end in (self.low, self.high))


def pooled_spread(cells: Sequence[np.ndarray]) -> tuple[float, int]:
    """Standard deviation of one run over seeds, pooled over an arm's lengths, and its degrees of freedom.

    cells: the values over seeds at each length. NaN and 0 where none has two. Only the scatter within cells
    counts, so that a law that fits badly does not widen it.
    """
    freedom = sum(len(cell) - 1 for cell in cells)
    squares = sum(float(((cell - cell.mean()) ** 2).sum()) for cell in cells)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


class Spread(NamedTuple):
    """The standard deviation of one run over seeds, and the degrees of freedom of its estimate."""

    value: float
    freedom: float
    declared: bool  # by a person, for every arm with too few seeds


def known_spread(cells: Sequence[np.ndarray], sigma: Sigma | None = None) -> Spread | None:
    """An arm's own spread where every cell has three seeds, or else the declared one; None where neither is there.

    Identical seeds tell none: three copies of one run are not three seeds.
    """
    if min(map(len, cells)) < SEEDS:
        return Spread(sigma.value, sigma.freedom, True) if sigma else None
    value, freedom = pooled_spread(cells)
    return Spread(value, freedom, False) if value > 0 else None


def freedom_of(variances: tuple[float, float], spreads: tuple[Spread, Spread]) -> float:
    """Degrees of freedom of a difference whose two variances rest on these spreads.

    A declared sigma of both arms is one estimate, and gives no more freedom than its own.
    """
    if spreads[0].declared and spreads[1].declared:
        return spreads[0].freedom
    return _welch(variances, (spreads[0].freedom, spreads[1].freedom))


def half_width(variances: tuple[float, float], freedoms: tuple[float, float]) -> float:
    """Compute half of the 95 % interval of a difference of two estimates with these variances."""
    if sum(variances) == 0:
        return 0.0
    return float(stdtrit(_welch(variances, freedoms), (1 + CONFIDENCE) / 2)) * math.sqrt(sum(variances))


def _welch(variances: tuple[float, float], freedoms: tuple[float, float]) -> float:
    """Degrees of freedom of a difference of two estimates with these variances: Welch (1947) and Satterthwaite."""
    terms = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / terms if terms else math.inf


class Ladder:
    """One arm's final losses by length, {updates: losses over seeds}, and the law through their means."""

    def __init__(self, losses: Mapping[int, Sequence[float]]) -> None:
        if not losses:
            raise ValueError("a ladder needs final losses at one length at least")
        self.cells = [np.asarray(losses[length], dtype=float) for length in sorted(losses)]
        self.lengths = np.array(sorted(losses), dtype=float)  # (K,) in updates
        self.means = np.array([cell.mean() for cell in self.cells])  # (K,)
        self.counts = np.array([len(cell) for cell in self.cells])  # (K,) seeds
        self.unit = math.exp(np.log(self.lengths).mean())  # lengths in these units keep the fit well conditioned

    @cached_property
    def law(self) -> tuple[float, float, float] | None:
        """(a, b, c) of a + b (T / unit)^-c by weighted least squares; None below three lengths or rising."""
        if len(self.lengths) < RUNGS:
            return None
        # Given c, a and b are linear: the search is over c alone. The grid first, should there be two minima.
        grid = np.linspace(SHALLOWEST, STEEPEST, 46)
        best = grid[np.argmin([self._given(c)[0] for c in grid])]
        near = max(SHALLOWEST, best - 0.02), min(STEEPEST, best + 0.02)
        found = minimize_scalar(lambda c: self._given(c)[0], bounds=near, method="bounded", options={"xatol": 1e-9})
        c = min((found.x, SHALLOWEST, STEEPEST), key=lambda c: self._given(c)[0])
        _, a, b = self._given(c)
        return (a, b, float(c)) if b > 0 else None

    def _given(self, c: float) -> tuple[float, float, float]:
        """The weighted mean of squared residuals, a and b at a given c."""
        weights = self.counts / self.counts.sum()
        x, y = (self.lengths / self.unit) ** -c, self.means
        dx, dy = x - weights @ x, y - weights @ y
        b = (weights * dx) @ dy / ((weights * dx) @ dx)
        return float(weights @ (dy - b * dx) ** 2), float(weights @ (y - b * x)), float(b)

    @property
    def falls(self) -> bool:
        """Whether longer runs end lower: without that no length can be read off a loss."""
        if len(self.lengths) >= RUNGS:
            return self.law is not None
        return bool(self.means[-1] < self.means[0]) or len(self.lengths) == 1

    def loss(self, length: float) -> float:
        """The law's loss after so many updates; without a law, the mean at a rung."""
        if self.law is None:
            return float(self.means[self.lengths == length][0])
        a, b, c = self.law
        return a + b * (length / self.unit) ** -c

    def variance(self, length: float) -> float:
        """Variance of `loss(length)` in units of sigma^2, by the delta method: j (J' W J)^-1 j'.

        A c that stopped at its bound counts as known; that covers as well as the free fit does elsewhere.
        """
        if self.law is None:
            return float(1 / self.counts[self.lengths == length][0])
        gradient = self._gradient(np.array([length]))[0]
        return float(gradient @ self._covariance @ gradient)

    @cached_property
    def _covariance(self) -> np.ndarray:
        """The covariance of (a, b, c) in units of sigma^2: (J' W J)^-1, W the seeds at each length."""
        gradients = self._gradient(self.lengths)
        return np.linalg.inv(gradients.T @ (self.counts[:, None] * gradients))

    def _gradient(self, lengths: np.ndarray) -> np.ndarray:
        """d loss / d (a, b, c), a row per length: (K, 3), or (K, 2) where c is at its bound."""
        assert self.law is not None
        _, b, c = self.law
        x = (lengths / self.unit) ** -c
        free = [-b * x * np.log(lengths / self.unit)] if SHALLOWEST < c < STEEPEST else []
        return np.stack([np.ones_like(x), x, *free], axis=1)

    def slope(self, length: float) -> tuple[float, float]:
        """-dL / d ln T of the law at a length, nats, and its standard error in units of sigma."""
        assert self.law is not None
        _, b, c = self.law
        x, log = (length / self.unit) ** -c, math.log(length / self.unit)
        gradient = np.array([0.0, c * x, b * x * (1 - c * log)])[: len(self._covariance)]
        return b * c * x, math.sqrt(gradient @ self._covariance @ gradient)

    def reach(self, losses: Sequence[float], length: int, sigma: Sigma | None = None) -> Speedup:
        """How many times `length` this arm would need for the mean of `losses`, another arm's at `length`.

        sigma: declared for an arm with fewer than three seeds somewhere; without it there is no interval.
        Below three rungs it says only which rungs lie higher and which lower; between two, `value` is None.
        """
        other = np.asarray(losses, dtype=float)
        target, first, last = other.mean(), self.lengths[0], self.lengths[-1]
        if not self.falls:
            return Speedup(None)
        value: float | None = None
        censored: Censored = None
        if target < self.loss(last):
            value, censored = last / length, "above"
        elif target > self.loss(first):
            value, censored = first / length, "below"
        elif self.law is not None:
            value = self._root(lambda rung: self.loss(rung) - target) / length
        elif target in self.means:
            value = float(self.lengths[self.means == target][0]) / length

        own, its = known_spread(self.cells, sigma), known_spread([other], sigma)
        if own is None or its is None:
            return Speedup(value, censored=censored)

        def t(rung: float) -> float:
            """Welch's t of this arm's loss at a length against the other's, in 95 % quantiles: falls with length."""
            variances = own.value**2 * self.variance(rung), its.value**2 / len(other)
            freedom = freedom_of(variances, (own, its))
            return (self.loss(rung) - target) / half_width((sum(variances), 0.0), (freedom, freedom))

        low = self._end(first, last, lambda rung: t(rung) - 1)  # up to here the ladder is surely higher
        high = self._end(last, first, lambda rung: -t(rung) - 1)  # from here on it is surely lower
        return Speedup(value, low and low / length, high and high / length, censored)

    def _end(self, near: float, far: float, excess: Callable[[float], float]) -> float | None:
        """How far from `near` towards `far` lengths are excluded (excess above 0); None if `near` is not."""
        if excess(near) <= 0:
            return None
        if excess(far) > 0:
            return far
        if self.law is None:
            return (max if near < far else min)(rung for rung in self.lengths if excess(rung) > 0)
        return self._root(excess)

    def _root(self, function: Callable[[float], float]) -> float:
        """The length within the ladder at which a function changes its sign."""
        first, last = np.log(self.lengths[[0, -1]])
        return math.exp(brentq(lambda log_length: function(math.exp(log_length)), first, last, xtol=1e-12))
