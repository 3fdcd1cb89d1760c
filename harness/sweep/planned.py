"""Planned runs, trained as one sweep by train.py's own `-m`, until they have ended or the time is over."""

import copy
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from conventions.config_keys import CONFIGS, within
from conventions.planned_run import PlannedRun
from harness.config import config_hash, default_run_dir, parse
from harness.process import Process
from harness.sweep.jobs import outcomes, sweep_name
from harness.words import CONFIG_DIR, own_configs, search_path

# What a person may choose for runs whose file fixes the rest: where and how they are computed, kept and watched.
FREE = (
    *("launcher", "tracker", "checkpoint", "device", "dtype", "compile", "shard_optimizer", "batch.micro"),
    # where the corpus is, and what makes tokens of it; runs of other tokens are refused
    *("data.dir", "data.repository", "data.tokenizer", "hydra"),
)

CHECKPOINT = 250  # updates
CLOSING, LEAST = 15, 10  # seconds of a call: kept for its end; that must be left before it for a sweep to begin


@dataclass(frozen=True)
class SweepEnding:
    """The end of a sweep: its exit code, and the runs that failed.

    Attributes:
        folder: of its logs and its jobs.jsonl.
        code: its exit code.
        timed_out: whether it was interrupted because its time was over.
        failed: a sentence on each run that failed, by the run's name.
    """

    folder: Path
    code: int
    timed_out: bool
    failed: dict[str, str]


def plan_run(
    values: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, name: str | None = None
) -> PlannedRun:
    """Return the run of a composed config with changes to dotted keys; its folder, below `folder`, is named as usual.

    Raises ValueError where a key's value is wrong.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    for key, value in {**changes, "run_dir": None, "resume": False}.items():
        *path, last = key.split(".")
        inner = changed
        for each in path:
            inner = inner[each]
        inner[last] = value
    place = folder / default_run_dir(parse(changed), config_hash(changed)).name
    label, _, digest = place.name.rpartition("-")
    own = f"{label.partition('-')[2]}-T{changed['steps']}-{digest}"
    return PlannedRun(name or own, {**changed, "run_dir": str(place)})


def sweep_runs(
    runs: Sequence[PlannedRun], study: Path, overrides: Sequence[str], seconds: float | None = None
) -> SweepEnding:
    """Train runs in their order, until all have had their turn or so many seconds are over.

    What was cut off before goes on from its newest checkpoint; so does what is interrupted now, the next time.

    Args:
        study: the folder that keeps the sweep's logs.
        overrides: the launcher's and Hydra's keys, and the flag of the user's own configs.
    """
    place = study / ".sweeps" / sweep_name()
    (place / "experiment").mkdir(parents=True)
    for run in runs:
        (place / "experiment" / f"{run.name}.yaml").write_text(run.experiment(), encoding="utf-8")
    line = [sys.executable, str(CONFIGS.parent / "train.py"), "-m", f"experiment={','.join(r.name for r in runs)}"]
    line += ["resume=true", *overrides, search_path(place), f"hydra.sweep.dir={place}"]
    with Process(line) as process:
        # torch's compile workers can hold up the exit of a process that has nothing left to do for five minutes
        ending = process.wait(seconds, done=lambda: len(outcomes(place)) == len(runs))
    recorded = outcomes(place)
    rows = {run.name: recorded.get(number, {}) for number, run in enumerate(runs)}
    failed = {name: str(row["error"]) for name, row in rows.items() if row.get("status") == "failed"}
    by_jobs = 1 if len(recorded) < len(runs) else 2 if failed else 0
    return SweepEnding(place, by_jobs if ending.code is None else ending.code, ending.timed_out, failed)


def sweep_until(
    runs: Sequence[PlannedRun], study: Path, overrides: Sequence[str], end: float | None, often: bool = True
) -> int:
    """Train runs in their order; return the exit code. Raise SystemExit where it was interrupted: 0 by the deadline.

    Args:
        end: of this process's time, on the monotonic clock; None: there is none. With one, the weights of runs that
            have ended are removed: a verdict needs none, and those of a claim's runs would fill the disk.
        often: with a deadline, checkpoint every CHECKPOINT updates at least.
    """
    if not runs:
        return 0
    seconds = None if end is None else end - CLOSING - time.monotonic()
    if seconds is not None and seconds < LEAST:
        _stop_for_now(len(runs))
    if seconds is not None and often:
        runs = [PlannedRun(run.name, {**run.config, "checkpoint": _often(run)}) for run in runs]
    ending = sweep_runs(runs, study, overrides, seconds)
    left = [run for run in runs if not run.ended]
    for run in runs if seconds is not None else ():
        if run not in left:
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    if ending.timed_out:
        _stop_for_now(len(left))
    if ending.code == 130:
        raise SystemExit(130)
    return ending.code


def _stop_for_now(left: int) -> NoReturn:
    print(f"the time is over, {left} runs are left: the same command goes on", flush=True)
    raise SystemExit(0)


def _often(run: PlannedRun) -> dict[str, Any]:
    """Return the section `checkpoint` for a run that has to get on in a call that it does not end in."""
    section = run.config["checkpoint"]
    return {**section, "every": min(CHECKPOINT, section["every"] or CHECKPOINT)}


def train_all(runs: Sequence[PlannedRun], study: Path, overrides: Sequence[str]) -> None:
    """Train what has not ended as one sweep, the longest first.

    Raises ValueError if some run still has not ended then, and SystemExit if the sweep was interrupted.
    """
    left = sorted((each for each in runs if not each.ended), key=lambda each: -each.tokens)
    if not left:
        return
    ending = sweep_runs(left, study, overrides)
    if ending.code == 130:
        raise SystemExit(130)
    if missing := [each for each in left if not each.ended]:
        raise ValueError(
            f"{len(missing)} of {len(left)} runs did not end (exit code {ending.code}), {missing[0].folder} for one: "
            f"{ending.folder / 'jobs.jsonl'} says why; the same command goes on"
        )


def launcher_of(arguments: Sequence[str], default: str | None = "launcher=local") -> list[str]:
    """Return the arguments that are for the sweep and not for its runs; the launcher may be the user's own config."""
    words = [argument.lstrip("+") for argument in arguments]
    own = [word for word in words if word.startswith(("launcher=", "launcher.", "hydra", CONFIG_DIR))]
    return own if default is None or any(word.startswith("launcher=") for word in own) else [default, *own]


def refuse_fixed(overrides: Sequence[str], fixed_by: str) -> None:
    """Raise ValueError where an override would change what a file fixes for its runs."""
    for override in own_configs(overrides)[1]:
        key = override.lstrip("+").partition("=")[0].replace("/", ".")
        if not within(key, FREE):
            raise ValueError(f"{override} would change what {fixed_by} fixes: give {', '.join(FREE)} alone")
