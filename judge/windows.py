"""The sampling of validation windows: how far a loss on them may lie from the loss on all such text.

Each evaluation reads a sample of windows. Two optimizers that are evaluated on the same ones differ by less than their
losses on other windows would, but not by nothing: the difference changes with the text. A run logs the losses of up to
64 parts of its last evaluation, and the scatter of a difference over these parts tells its standard error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 8  # parts, to tell a standard error from


class EvaluationParts(NamedTuple):
    """The parts of one evaluation, in order."""

    windows: str  # which they are: the corpus, the context, and how many tokens
    targets: np.ndarray  # (P,) counted in each part
    losses: np.ndarray  # (P,) nats per token


def aligned(evaluations: Sequence[EvaluationParts | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the parts that all evaluations of the same windows have in common: targets (P,), and losses (n, P).

    Passes of another size end at other windows: what lies between two common ends is put together. None where an
    evaluation did not log its parts, where the windows are others, and where fewer than eight parts are common.
    """
    known = [each for each in evaluations if each is not None]
    if not known or len(known) < len(evaluations) or len({each.windows for each in known}) > 1:
        return None
    ends = [np.cumsum(each.targets) for each in known]
    common = sorted(set(ends[0].tolist()).intersection(*(each.tolist() for each in ends[1:])))
    if len(common) < FEWEST or any(each[-1] != common[-1] for each in ends):
        return None
    sums = [np.interp(common, each, np.cumsum(own.targets * own.losses)) for each, own in zip(ends, known, strict=True)]
    targets = np.diff(common, prepend=0)
    return targets, np.diff(np.array(sums), prepend=0) / targets


def mean_parts(evaluations: Sequence[EvaluationParts | None]) -> EvaluationParts | None:
    """Return the mean over the seeds of an arm; None where one of them is not known."""
    common = aligned(evaluations)
    first = evaluations[0] if evaluations else None
    return (
        None if common is None or first is None else EvaluationParts(first.windows, common[0], common[1].mean(axis=0))
    )


def sampling(
    weights: np.ndarray, own: Sequence[EvaluationParts | None], other: EvaluationParts | None
) -> list[tuple[float, int]]:
    """Return the variances of a weighted sum of losses less another loss by the choice of windows, each with its
    degrees of freedom: one where both were evaluated on the same windows, two where not, none where it is unknown.
    """
    together = aligned([*own, other])
    if together is not None:
        return [_variance(together[0], np.append(weights, -1.0) @ together[1])]
    one, its = aligned(own), aligned([other])
    if one is None or its is None:
        return []
    return [_variance(one[0], weights @ one[1]), _variance(its[0], its[1][0])]


def _variance(targets: np.ndarray, losses: np.ndarray) -> tuple[float, int]:
    """Return the variance of the mean over all targets, by the scatter over parts, and its degrees of freedom."""
    shares, freedom = targets / targets.sum(), len(losses) - 1
    return float((shares**2 @ (losses - shares @ losses) ** 2) * (freedom + 1) / freedom), freedom
