"""Means over the seeds of each compared arm: its loss curve, and whatever else its runs logged."""

from collections.abc import Callable, Sequence

import numpy as np

from conventions.grid import Grid
from judge.comparison import Comparison, Standing
from judge.curve import mean_curve
from judge.downstream import alike, over_seeds, shown, tasks_of, title
from judge.records import Point, Run


def finished(standing: Standing) -> list[Run]:
    """Return the runs of an arm that ended at the length at which it is compared."""
    return standing.arm.finished(standing.length) if standing.length else []


def curves_of(comparison: Comparison, axis: str) -> list[tuple[str, list[Point], np.ndarray]]:
    """Return (label, mean curve, losses by seed (points, seeds)) of every compared arm whose runs know this axis."""
    curves = []
    for standing in comparison.standings:
        runs = finished(standing)
        curve = [point for point in mean_curve(runs) if getattr(point, axis) is not None]
        by_step = [{point.steps: point.loss for point in run.points} for run in runs]
        if curve:
            seeds = np.array([[losses[point.steps] for losses in by_step] for point in curve])
            curves.append((standing.arm.label, curve, seeds))
    return curves


def mean_by_arm(comparison: Comparison, measure: Callable[[Run], Sequence[float] | None]) -> dict[str, np.ndarray]:
    """Return a measure's mean over the finished runs of each compared arm, by label, where all of them know it."""
    means = {}
    for standing in comparison.standings:
        measured = [measure(run) for run in finished(standing)]
        known = [values for values in measured if values is not None]
        if known and len(known) == len(measured):
            means[standing.arm.label] = np.mean(known, axis=0)
    return means


def scores_by_arm(comparison: Comparison) -> Grid | None:
    """Return the table of every compared arm's downstream scores, over its finished runs; None: no run has any."""
    scores = {standing.arm.label: [run.scores for run in finished(standing)] for standing in comparison.standings}
    every = [each for runs in scores.values() for each in runs]
    tasks = tasks_of(every)
    unlike = {task for task in tasks if not alike(every, task)}
    if not tasks:
        return None
    rows = []
    for label, runs in scores.items():
        each = [None if task in unlike else over_seeds(runs, task) for task in tasks]
        rows.append([label, *(shown(score.value, score.half_width) if score else "none" for score in each)])
    titles = [title(task) + " (scored in different ways)" * (task in unlike) for task in tasks]
    return Grid("Downstream scores", ["optimizer", *titles], rows)
