"""The error of a difference between two arms: a weighted sum of one arm's mean losses, less the other's mean loss.

It has two sources. Seeds scatter: each arm has its own sigma, and the degrees of freedom are Welch's. Where both arms
ran the same seeds and their losses surely correlate, the differences seed by seed decide instead, by Student's t: with
independent seeds that would widen an interval (by half at three seeds), and with a correlation of .9 it halves it or
more. Looking first costs little: at 95 % the interval covers 94 to 96 % for every correlation and three seeds or more,
where independent seeds alone would cover up to 99.9 %, since the test of the correlation is as strict as the interval
itself. The second source is the choice of the validation windows, judge/windows.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from judge.declared import Sigma
from judge.spread import CONFIDENCE, SAME, SEEDS, freedom_of, half_width, known_spread, welch
from judge.windows import EvaluationParts, sampling

PAIRED = "paired by seed"  # begins a remark that is no caution


@dataclass(frozen=True)
class Sample:
    """The final losses of an arm at one length, over seeds."""

    losses: np.ndarray  # (S,) nats per token
    seeds: tuple[int, ...] = ()  # of the losses, in their order; empty where they are not known
    parts: EvaluationParts | None = None  # of the evaluation, mean over seeds


Losses = Sample | Sequence[float] | np.ndarray  # over seeds, nats per token


def sample_of(losses: Losses) -> Sample:
    """Return bare losses as a sample whose seeds and windows are not known."""
    return losses if isinstance(losses, Sample) else Sample(np.asarray(losses, dtype=float))


def paired_by_seed(arm: str, correlation: float) -> str:
    """Return a sentence on the seeds that an arm shares with the other."""
    return f"{PAIRED} with {arm}: over the seeds that both share, the losses correlate by {correlation:.2f}"


class Contrast:
    """A weighted sum of the mean losses of one arm's samples, less the mean of another arm's.

    own: of K lengths. other: of one. sigma: declared, for an arm with fewer than three seeds somewhere.
    """

    def __init__(self, own: Sequence[Sample], other: Sample, sigma: Sigma | None = None) -> None:
        self._own, self._other = own, other
        self._counts = np.array([len(each.losses) for each in own])
        self.spread, self.its = (
            known_spread([each.losses for each in cells], sigma) for cells in (own, [other])
        )  # of one run; None where there is no interval

    def correlation(self, weights: np.ndarray, confidence: float = CONFIDENCE) -> float | None:
        """Return the correlation of both arms over the seeds that they share; None where it may well not be above 0.

        The test is Student's, one-sided, at the confidence of the interval. It takes three seeds, the same ones in
        all samples.
        """
        pairs = self._pairs
        if pairs is None:
            return None
        ours, theirs = weights @ pairs[:-1], pairs[-1]
        if min(each.std() for each in (ours, theirs, ours - theirs)) <= SAME * np.abs(theirs).max():
            return None  # copies of one run tell no error
        r, freedom = float(np.corrcoef(ours, theirs)[0, 1]), len(theirs) - 2
        t = r * math.sqrt(freedom / max(1e-15, 1 - r**2))
        return r if stdtr(freedom, -t) < 1 - confidence else None

    def error(self, weights: np.ndarray, paired: bool = False) -> tuple[float, float]:
        """Return the variance of the difference, in nats squared, and its degrees of freedom.

        weights: (K,) of the lengths. paired: by seed, where `correlation` says so. ValueError without spreads.
        """
        if self.spread is None or self.its is None:
            raise ValueError("a difference has no interval where an arm has fewer than three seeds and no sigma")
        if paired and self._pairs is not None:
            differences = np.append(weights, -1.0) @ self._pairs
            terms = [(float(differences.var(ddof=1)) / len(differences), len(differences) - 1.0)]
        else:
            own = self.spread.value**2 * float((weights**2 / self._counts).sum())
            variances = own, self.its.value**2 / len(self._other.losses)
            terms = [(sum(variances), freedom_of(variances, (self.spread, self.its)))]
        terms += sampling(weights, [each.parts for each in self._own], self._other.parts)
        return sum(variance for variance, _ in terms), welch(*zip(*terms, strict=True))

    def half_width(self, weights: np.ndarray, paired: bool = False, confidence: float = CONFIDENCE) -> float:
        """Return half the width of the interval of the difference, in nats."""
        variance, freedom = self.error(weights, paired)
        return half_width([variance], [freedom], confidence)

    @property
    def _pairs(self) -> np.ndarray | None:
        """Return the losses of all samples by seed, the other arm's last, (K + 1, S); None unless all share them."""
        samples = [*self._own, self._other]
        seeds = sorted(self._other.seeds)
        if len(seeds) < SEEDS or any(sorted(each.seeds) != seeds for each in samples):
            return None
        return np.array([each.losses[np.argsort(each.seeds)] for each in samples])
