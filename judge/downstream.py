"""Scores of a run's last weights on downstream tasks, as scripts.downstream leaves them in its folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from conventions.atomic import write_text
from conventions.json_text import parse_json
from conventions.run_format import first_line
from judge.spread import CONFIDENCE, SEEDS

FILE = "downstream.json"
PREFIX = "downstream/"  # of a metric's name
MEAN = "mean"  # over tasks, of the score above chance
WAY = ("metric", "harness", "version", "fewshot", "limit", "hash")  # of scoring: what scores must share to be compared


@dataclass(frozen=True)
class Score:
    """A score, and half the width of its 95 % interval over seeds, or with one run over a task's samples."""

    value: float
    half_width: float | None


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a run's folder says of each task, by its name: metric, value, stderr, samples; empty: nothing.

    Raises ValueError, which names the file, where it is broken.
    """
    path = folder / FILE
    try:
        tasks = parse_json(path.read_text(encoding="utf-8"))["tasks"]
        if not all(isinstance(task["value"], float | int) for task in tasks.values()):
            raise TypeError("a score is no number")
        return tasks
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is broken ({first_line(error)}): score the run again with scripts.downstream"
        ) from None


def add_scores(folder: Path, scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Write scores, by task, into a run's folder beside those that it has; return all of them."""
    held = {**read_scores(folder), **scores}
    write_text(folder / FILE, json.dumps({"schema": 1, "tasks": held}, indent=1) + "\n")
    return held


def mean_above_chance(tasks: dict[str, dict[str, Any]]) -> float | None:
    """Return the mean over tasks of (score - chance) / (1 - chance), as the CORE metric of DCLM does.

    Li et al. 2024 (arXiv 2406.11794). Tasks whose score is no share between 0 and 1 are left out; None: all are.
    """
    shares = [
        (task["value"] - task["chance"]) / (1 - task["chance"])
        for task in tasks.values()
        if task.get("chance") is not None and 0 <= task["value"] <= 1
    ]
    return float(np.mean(shares)) if shares else None


def metric(tasks: dict[str, dict[str, Any]], name: str) -> float | None:
    """Return the value of a metric such as downstream/boolq or downstream/mean; None where the run has none."""
    task = name.removeprefix(PREFIX)
    if task == MEAN and task not in tasks:
        return mean_above_chance(tasks)
    return float(tasks[task]["value"]) if task in tasks else None


def alike(runs: Sequence[dict[str, dict[str, Any]]], name: str) -> bool:
    """Say whether all runs that have a metric were scored in the same way, by the same tasks where it is their mean."""
    task = name.removeprefix(PREFIX)
    ways = set()
    for scores in runs:
        parts = [each for each in scores if scores[each].get("chance") is not None] if task == MEAN else [task]
        ways.add(
            tuple((each, *(str(scores[each].get(key)) for key in WAY)) for each in sorted(parts) if each in scores)
        )
    return len(ways - {()}) < 2


def over_seeds(runs: list[dict[str, dict[str, Any]]], task: str) -> Score | None:
    """Return an arm's score on a task, from the tasks of its runs; None unless every run has it."""
    values = [value for value in (metric(tasks, task) for tasks in runs) if value is not None]
    if not values or len(values) < len(runs):
        return None
    if len(values) >= SEEDS:
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        return Score(float(np.mean(values)), float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * error)
    error = runs[0].get(task, {}).get("stderr") if len(runs) == 1 else None
    return Score(float(np.mean(values)), None if error is None else 1.96 * float(error))


def tasks_of(runs: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Return every task that a run was scored on, and the mean last."""
    names = list(dict.fromkeys(task for tasks in runs for task in tasks))
    return [*names, MEAN] if len(names) > 1 and any(mean_above_chance(tasks) is not None for tasks in runs) else names


def title(task: str) -> str:
    """Return the heading of a task's column."""
    return "mean above chance" if task == MEAN else task


def shown(value: float | None, half_width: float | None = None) -> str:
    """Write a score, and half the width of its interval where there is one."""
    return "" if value is None else f"{value:.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")
