"""Forecasts how long runs side by side will take on this machine, as busy as it is, by a few updates of each."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conventions.run_format import read_rows
from harness.process import Process
from harness.sweep.local import cores, visible_gpus

PROBED = 20  # updates of each run in the probe; the first half of them warms up


def probe(sweep: Sequence[str], plan: Mapping[str, Any]) -> float:
    """Estimate the seconds that the runs will take side by side, by the same sweep over a few updates.

    Args:
        sweep: the command line that trains them.
        plan: what their config has under steps and eval.

    Raises:
        ValueError: a run of the probe fails.
    """
    with tempfile.TemporaryDirectory(prefix="halfstep-probe-") as folder:
        few = {"steps": PROBED, "eval.every": PROBED, "log.every": PROBED // 2}
        place = {"run_dir": f"{folder}/${{optimizer.name}}", "hydra.sweep.dir": f"{folder}/sweep"}
        overrides = [f"{key}={value}" for key, value in {**few, **place}.items()]
        began = time.monotonic()
        with Process([*sweep, *overrides], log=Path(folder, "log")) as process:
            if (ending := process.wait()).code:
                raise ValueError(f"the probe failed: {ending.last_words}")
        own = time.monotonic() - began  # starting the processes and preparing the corpus are in it
        metrics = [read_rows(path) for path in Path(folder).glob("*/metrics.jsonl")]
    work = [remaining(rows, plan["steps"], plan["eval"]["every"]) for rows in metrics]
    return own + span(work, len(visible_gpus()) or cores())


def remaining(rows: Sequence[Mapping[str, Any]], steps: int, eval_every: int) -> float:
    """Return the seconds of a run beyond those of its probe, whose rows these are: its updates and its evaluations."""
    at = {row["step"]: row for row in rows}
    update = (at[PROBED]["seconds/total"] - at[PROBED // 2]["seconds/total"]) / (PROBED - PROBED // 2)
    evaluation = at[PROBED]["seconds/evaluate"] / 2  # before the first update and after the last
    return (steps - PROBED) * update + (steps // eval_every - 1) * evaluation


def span(work: Sequence[float], places: int) -> float:
    """Return the seconds from the first start to the last end, where each free place takes the next run."""
    free = [0.0] * places
    for seconds in work:
        free[free.index(min(free))] += seconds
    return max(free)
