"""An arm's loss curve: the mean over its seeds, and where it first reaches a loss."""

import math
from collections.abc import Sequence

import numpy as np

from judge.records import Point, Run


def mean_curve(runs: Sequence[Run]) -> list[Point]:
    """Return the mean over runs of loss and cost, at the evaluations that all of them made."""
    by_step = [{point.steps: point for point in run.points} for run in runs]
    shared = sorted(set(by_step[0]).intersection(*by_step[1:])) if by_step else []
    return [_mean([points[step] for points in by_step]) for step in shared]


def crossing(curve: Sequence[Point], loss: float) -> Point | None:
    """Return the point at which a curve first reaches a loss, linear between evaluations; None if it never does."""
    after = next((index for index, point in enumerate(curve) if point.loss <= loss), None)
    if not after:
        return None if after is None else curve[0]
    a, b = curve[after - 1], curve[after]
    share = (a.loss - loss) / (a.loss - b.loss)

    def between(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one + share * (other - one)

    steps = a.steps + share * (b.steps - a.steps)
    return Point(loss, steps, between(a.flops, b.flops), between(a.seconds, b.seconds))


def refuse_target(target: float, curve: Sequence[Point]) -> None:
    """Raise ValueError for a target loss that says nothing: no loss at all, or one that the curve begins below.

    curve: the baseline's; none where it has no finished run.
    """
    if not 0 < target < math.inf:
        raise ValueError(f"a target is a validation loss above 0, in nats per token, not {target:g}")
    if curve and target > curve[0].loss:
        raise ValueError(
            f"a target of {target:g} is above the loss with which the baseline begins ({curve[0].loss:.4f}): give less"
        )


def _mean(points: Sequence[Point]) -> Point:
    """Return one evaluation of several runs; a cost that one of them does not know is unknown."""
    flops = [point.flops for point in points if point.flops is not None]
    seconds = [point.seconds for point in points if point.seconds is not None]
    return Point(
        loss=float(np.mean([point.loss for point in points])),
        steps=points[0].steps,
        flops=float(np.mean(flops)) if len(flops) == len(points) else None,
        seconds=float(np.mean(seconds)) if len(seconds) == len(points) else None,
    )
