"""Copies finished runs to where git keeps them: whether a study may be published, and the copy, whole or not at all."""

import os
import shutil
from pathlib import Path

from conventions.run_format import ENDED
from conventions.sentence import nearest
from judge.claims.plan import PLAN
from judge.records import Run, find_runs
from judge.tuning.trials import CHOICE, SEARCH

RESULTS = Path("results")
KEPT = ("config.yaml", "metrics.jsonl", "manifest.json")  # the last makes a folder a run
UNKEPT = ("runs", "demo", "verdicts")  # folders of results/ that git ignores


def copy_run(run: Run, place: Path) -> None:
    """Copy a run without its weights. Cut off, the copy is no run yet."""
    place.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        draft = place / f".new-{name}"
        shutil.copyfile(run.folder / name, draft)
        draft.replace(place / name)


def publishable(folder: Path, target: Path, optimizer: str | None = None) -> list[Run]:
    """Return the runs of a study, or of one optimizer's part of it, that may be published there.

    Raises:
        ValueError: a run is still going or was cut off, or the target is ignored by git or holds anything but runs of
            this study as they are, or no run is the optimizer's.
    """
    if target.parent != RESULTS or target.name in ("", ".."):
        raise ValueError(f"--name must be the name of a folder to make under {RESULTS}/, not a path")
    if target.name in UNKEPT:
        raise ValueError(f"{target} is ignored by git: give another --name")
    runs = find_runs(folder)
    if target.exists():
        _refuse_others(folder, target)
    if optimizer is not None:
        names = sorted({run.optimizer for run in runs})
        if optimizer not in names:
            raise ValueError(f"no run in {folder} is of the optimizer {optimizer}: {nearest(optimizer, names)}")
        runs = [run for run in runs if run.optimizer == optimizer]
    for run in runs:
        if run.status not in ENDED:
            raise ValueError(f"{run.folder} is {run.status}: let it end (resume=true), or move it out of {folder}")
    return runs


def publish(folder: Path, target: Path, optimizer: str | None = None) -> Path:
    """Copy a study, or one optimizer's part of it. The copy appears whole or not at all; what is there is completed run
    by run, and cut off the same command goes on.

    Raises ValueError where `publishable` does.
    """
    runs = publishable(folder, target, optimizer)
    new = target.with_name(f".new-{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    places = {run.folder.relative_to(folder): run for run in runs}
    for place, run in places.items():
        if not (target / place).exists():
            copy_run(run, new / place)
    plans = [path for name in (PLAN, SEARCH, CHOICE) for path in folder.rglob(name)]  # a claim's or a tuning's
    for path in (path for path in plans if any(run.folder.is_relative_to(path.parent) for run in runs)):
        (new / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new / path.relative_to(folder))
    if not target.exists():
        os.replace(new, target)
        return target
    for path in [new / place for place in places if (new / place).exists()] + sorted(new.rglob("*.yaml")):
        if path.exists():  # a run's own files have moved with it
            (target / path.relative_to(new)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / path.relative_to(new))
    shutil.rmtree(new, ignore_errors=True)
    return target


def _refuse_others(folder: Path, target: Path) -> None:
    """Raise ValueError unless the target was made from this folder, and is as it was."""
    if not any(target.rglob("manifest.json")):
        raise ValueError(f"{target} exists already and holds no run: give another --name, or delete it first")
    for run in find_runs(target):
        source = folder / run.folder.relative_to(target)
        for name in KEPT:
            if not (source / name).is_file() or (source / name).read_bytes() != (run.folder / name).read_bytes():
                raise ValueError(
                    f"{target} exists already, and its {run.folder.name} is not in {folder} as it is there: give "
                    "another --name, or delete it first"
                )
