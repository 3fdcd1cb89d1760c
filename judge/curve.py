"""An arm's loss curve: the mean over its seeds, and where it first reaches a loss."""

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
