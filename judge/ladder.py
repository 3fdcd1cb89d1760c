"""The length of training that an optimizer needs to reach a loss, from power laws through a ladder of run lengths.

Final losses are of runs that each decayed over their own length T. Straight lines between the rungs are not good
enough, not even on log-log paper: with rungs at T and 2T they turn a true speed-up of 1.30 into 1.33. One law through
all rungs (judge/law.py) is not good enough either: a warm-up of fixed length, a second power or a kink biases it by 1
to 5 %, and with many seeds its 95 % interval then covers the truth in none of the studies. So each rung has a law of
its own, through its neighbours and whatever lies within a factor of 2, and between two rungs the loss goes over from
one law to the other, linearly in log T. A ladder of three rungs has one law.

The interval is a t-test turned around (judge/contrast.py): it holds every length whose loss, by the laws, does not
differ from the other arm's by more than chance. It need not be symmetric, and it never looks beyond the ladder: an end
that lies out there stays open. Where the laws of two neighbours differ by more than their noise, the truth may be
either, and the interval reaches to both: beside a kink only one of them is right.

Each arm has its own sigma, pooled over its lengths. One sigma for both arms would make the interval 3 % narrower where
they are equal; but where the newcomer's is two or three times the baseline's, as near instability, 95 % would cover 88
or 82 %. What covers what, in simulated studies, is in docs/interval.md and tests/test_coverage.py.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import fdtrc

from judge.contrast import PAIRED, Contrast, Losses, sample_of
from judge.declared import Sigma
from judge.estimate import Censored, Speedup
from judge.law import USUAL, Law, Parabola, neighbourhood
from judge.spread import CONFIDENCE, SAME, pooled_spread

RUNGS = 3  # lengths that a law of three numbers needs
# These begin remarks that are no caution.
FITS, SECOND, WARMUP = "one power law fits", "a second law", "the warm-up"
NEUTRAL = (FITS, SECOND, WARMUP, PAIRED)
MISFIT = 0.01  # below this p-value one power law through all rungs is rejected


class Ladder:
    """One arm's final losses by length, {updates: losses over seeds}, and the laws through their means.

    warmup: updates, where it is a fixed number of them. law: which kind of law.
    """

    def __init__(self, losses: Mapping[int, Losses], warmup: float = 0.0, law: type[Law] = Law) -> None:
        if not losses:
            raise ValueError("a ladder needs final losses at one length at least")
        if warmup >= min(losses):
            raise ValueError(f"the warm-up, {warmup:g} updates, is as long as a run of {min(losses)} or longer")
        self.samples = [sample_of(losses[length]) for length in sorted(losses)]
        self.cells = [each.losses for each in self.samples]
        self.warmup, self.kind = warmup, law
        self.lengths = np.array(sorted(losses), dtype=float)  # (K,) in updates
        self._logs = np.log(self.lengths).tolist()
        self.means = np.array([cell.mean() for cell in self.cells])  # (K,)
        self.counts = np.array([len(cell) for cell in self.cells])  # (K,) seeds

    @cached_property
    def law(self) -> Law | None:
        """Return the one law of least squares through all rungs; None below three lengths, or if it does not fall."""
        if len(self.lengths) < RUNGS:
            return None
        law = self.kind(self.lengths, self.means, self.counts, self.warmup)
        return law if law.b > 0 else None

    @property
    def second(self) -> "Ladder":
        """Return the same ladder by the second law, parabolas in log T."""
        samples = {int(length): each for length, each in zip(self.lengths, self.samples, strict=True)}
        return Ladder(samples, self.warmup, Parabola)

    @cached_property
    def _local(self) -> list[tuple[Law, tuple[int, ...]]]:
        """Return each rung's law, and the rungs it is fitted to; that of all where a local one does not fall."""
        assert self.law is not None
        everything = tuple(range(len(self.lengths)))
        laws = {everything: self.law}
        fits = []
        for rung in everything:
            near = neighbourhood(self.lengths.tolist(), rung)
            if near not in laws:
                rungs = list(near)
                laws[near] = self.kind(self.lengths[rungs], self.means[rungs], self.counts[rungs], self.warmup)
            fits.append((laws[near], near) if laws[near].b > 0 else (self.law, everything))
        return fits

    @property
    def falls(self) -> bool:
        """Return whether longer runs end lower: if they do not, no length can be read off a loss."""
        if len(self.lengths) >= RUNGS:
            return self.law is not None
        return bool(self.means[-1] < self.means[0]) or len(self.lengths) == 1

    def misfit(self) -> float | None:
        """Return the p-value of the one law: F of its residuals against the scatter over seeds. None where none is.

        A small one says that the rungs do not lie on one power law; the local laws do not need that.
        """
        if self.law is None:
            return None
        rest, (sigma, scatter) = len(self.lengths) - 2 - self.law.free, pooled_spread(self.cells)
        if rest < 1 or not scatter or not sigma > 0:
            return None
        return float(fdtrc(rest, scatter, self.law.rest / rest / sigma**2))

    def remarks(self, label: str) -> list[str]:
        """Return sentences on how well one power law fits all rungs, and on an exponent out of the usual."""
        notes, p = [], self.misfit()
        if self.warmup:
            notes.append(f"{WARMUP} of {label}, {self.warmup:,g} updates, comes off the length of its runs")
        if p is not None and p < MISFIT:
            notes.append(f"one power law is rejected for the ladder of {label} (p = {p:.2g}): the nearest rungs decide")
        elif p is not None:
            notes.append(f"{FITS} the ladder of {label} (p = {p:.2g})")
        if self.law is not None and not USUAL[0] <= self.law.c <= USUAL[1]:
            c = round(self.law.c, 2) + 0.0
            notes.append(
                f"the exponent {c:.2f} of the ladder of {label} is outside the usual {USUAL[0]:g} to {USUAL[1]:g}"
            )
        return notes

    def _between(self, length: float) -> tuple[int, float]:
        """Return the rung at or below a length, and which share of the way to the next one it lies, in log T."""
        rung = min(max(0, bisect_right(self._logs, math.log(length)) - 1), len(self._logs) - 2)
        below, above = self._logs[rung : rung + 2]
        return rung, min(1.0, max(0.0, (math.log(length) - below) / (above - below)))

    def loss(self, length: float) -> float:
        """Return the laws' loss after so many updates; without a law, the mean at a rung."""
        if self.law is None:
            return float(self.means[self.lengths == length][0])
        rung, share = self._between(length)
        (below, _), (above, _) = self._local[rung : rung + 2]
        return (1 - share) * below.loss(length) + share * above.loss(length)

    def weights(self, length: float) -> np.ndarray:
        """Return by how much `loss(length)` moves with each rung's mean, (K,), by the delta method."""
        if self.law is None:
            return (self.lengths == length).astype(float)
        rung, share = self._between(length)
        parts = [part * self._influence(k, length) for k, part in ((rung, 1 - share), (rung + 1, share)) if part]
        return np.sum(parts, axis=0)

    def slack(self, length: float, sigma: float) -> float:
        """Return how far the loss between two rungs may lie from the truth for want of the right law, nats.

        The truth may be the law of either rung, unless these differ by less than the standard error of that difference.
        It is 0 at a rung, and where both have one law. sigma: of one run.
        """
        if self.law is None:
            return 0.0
        rung, share = self._between(length)
        (below, _), (above, _) = self._local[rung : rung + 2]
        if below is above:
            return 0.0
        weights = self._influence(rung, length) - self._influence(rung + 1, length)
        noise = sigma * math.sqrt(float((weights**2 / self.counts).sum()))
        return max(share, 1 - share) * max(0.0, abs(below.loss(length) - above.loss(length)) - noise)

    def _influence(self, rung: int, length: float) -> np.ndarray:
        """Return by how much a rung's law at a length moves with each of all means, (K,)."""
        law, near = self._local[rung]
        weights = np.zeros(len(self.lengths))
        weights[list(near)] = law.influence(length)
        return weights

    def reach(self, losses: Losses, length: int, sigma: Sigma | None = None, confidence: float = CONFIDENCE) -> Speedup:
        """Return how many times `length` this arm would need for the mean of `losses`, another arm's at `length`.

        sigma: declared for an arm with fewer than three seeds somewhere; without it there is no interval.
        Below three rungs it says only which rungs lie higher and which lower; between two, `value` is None.
        """
        other = sample_of(losses)
        target, first, last = float(other.losses.mean()), self.lengths[0], self.lengths[-1]
        if not self.falls:
            return Speedup(None)
        value: float | None = None
        censored: Censored = None
        if target < self.loss(last):
            value, censored = last / length, "above"
        elif target > self.loss(first):
            value, censored = first / length, "below"
        elif self.law is not None:
            value = self._crossing(lambda rung: self.loss(rung) - target, self._walk()) / length
        elif target in self.means:
            value = float(self.lengths[self.means == target][0]) / length

        contrast = Contrast(self.samples, other, sigma)
        if contrast.spread is None or contrast.its is None:
            return Speedup(value, censored=censored)
        own = contrast.spread.value
        paired = self.correlation(other, length * (value or 1.0), confidence) is not None

        def t(rung: float) -> float:
            """Return Welch's t of this arm's loss at a length against the other's, in quantiles of the confidence."""
            difference = self.loss(rung) - target
            beyond = math.copysign(max(0.0, abs(difference) - self.slack(rung, own)), difference)
            return beyond / max(contrast.half_width(self.weights(rung), paired, confidence), SAME * abs(target))

        low = self._end(self._walk(), lambda rung: t(rung) - 1)  # up to here the ladder is surely higher
        high = self._end(self._walk()[::-1], lambda rung: -t(rung) - 1)  # from here on it is surely lower
        return Speedup(value, low and low / length, high and high / length, censored)

    def correlation(self, losses: Losses, length: float, confidence: float = CONFIDENCE) -> float | None:
        """Return the correlation over shared seeds of this arm's losses at a length with another's, if surely above 0.

        length: where the interval is centred, in updates. Without a law it is the nearest rung.
        """
        if self.law is None:
            length = min(self.lengths, key=lambda rung: abs(math.log(rung / length)))
        return Contrast(self.samples, sample_of(losses)).correlation(self.weights(length), confidence)

    def _walk(self) -> list[float]:
        """Return lengths from the first rung to the last, close enough to see each change of sign."""
        if self.law is None:
            return [float(length) for length in self.lengths]
        shares = np.linspace(0, 1, 2 * (len(self.lengths) - 1) + 1) * (len(self.lengths) - 1)
        walk = np.exp(np.interp(shares, range(len(self.lengths)), np.log(self.lengths))).tolist()
        return [self.lengths[0], *walk[1:-1], self.lengths[-1]]

    def _end(self, walk: Sequence[float], excess: Callable[[float], float]) -> float | None:
        """Return how far along a walk lengths are excluded (excess above 0); None if its first is not."""
        if excess(walk[0]) <= 0:
            return None
        return self._crossing(excess, walk)

    def _crossing(self, excess: Callable[[float], float], walk: Sequence[float]) -> float:
        """Return the first length of a walk at which the excess, above 0 at its start, is gone; its end if it never is.

        Between rungs without a law that is the last rung where it is still there.
        """
        for before, after in pairwise(walk):
            if excess(after) <= 0:
                if self.law is None:
                    return before
                ends = sorted((math.log(before), math.log(after)))
                return math.exp(brentq(lambda log: excess(math.exp(log)), *ends, xtol=1e-12))
        return walk[-1]
