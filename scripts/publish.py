"""Copies finished studies to where git keeps them: config, manifest and metrics of each run, and no weights.

python -m scripts.publish results/runs/my_study                     # to results/my_study/
python -m scripts.publish results/demo --name demo_of_six
python -m scripts.publish results/runs/verdict-tiny-1234abcd --optimizer adamw    # what other verdicts take over
python -m scripts.publish results/runs/*-small-* results/runs/rates-*-tuning         # claims, and trials of their rates

Of several none is copied if one is refused. A study that was published before, and has more runs since, is completed.
A claim's plan and what a tuning searched are copied with the runs. `make tables` finds a claim's file in configs/claim,
or in results/claims where it is one of your own.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from conventions.run_format import ENDED
from conventions.sentence import nearest, one_sentence
from judge.claims.plan import PLAN
from judge.records import Run, find_runs
from judge.tuning.trials import CHOICE, SEARCH

RESULTS = Path("results")
KEPT = ("config.yaml", "metrics.jsonl", "manifest.json")  # the last makes a folder a run
UNKEPT = ("runs", "demo", "verdicts")  # folders of results/ that git ignores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.publish", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+", help="a study's folder")
    parser.add_argument("--name", help="the folder under results/ to make (default: the study's own name)")
    parser.add_argument("--optimizer", help="publish its runs alone")
    options = parser.parse_args(arguments)
    with one_sentence():
        targets: dict[Path, Path] = {}
        refused: dict[Path, ValueError] = {}
        for folder in options.folder:
            target = RESULTS / (options.name or folder.resolve().name)
            if target in targets:
                raise ValueError(f"{targets[target]} and {folder} would both become {target}: publish one at a time")
            targets[target] = folder
            try:
                publishable(folder, target, options.optimizer)
            except ValueError as error:
                refused[folder] = error
        if refused:
            others = f"; leave out {' '.join(map(str, refused))} to publish the others"
            raise ValueError(f"{next(iter(refused.values()))}{others * (len(refused) < len(targets))}")
        for target, folder in targets.items():
            print(publish(folder, target, options.optimizer))


def copy_run(run: Run, place: Path) -> None:
    """What there is to know of a run, without its weights. Cut off, the copy is no run yet."""
    place.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        draft = place / f".new-{name}"
        shutil.copyfile(run.folder / name, draft)
        draft.replace(place / name)


def publishable(folder: Path, target: Path, optimizer: str | None = None) -> list[Run]:
    """The runs of a study, or of one optimizer's part of it, that may be published there.

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
    for path in (
        path for name in (PLAN, SEARCH, CHOICE) for path in folder.rglob(name)
    ):  # of a claim's or a tuning's folder
        if not any(run.folder.is_relative_to(path.parent) for run in runs):
            continue
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
    """Raises ValueError unless the target was made from this folder, and is as it was."""
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


if __name__ == "__main__":
    main()
