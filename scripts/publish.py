"""Copies finished studies to where git keeps them: config, manifest and metrics of each run, and no weights.

python -m scripts.publish results/runs/my_study                     # to results/my_study/
python -m scripts.publish results/demo --name demo_of_six
python -m scripts.publish results/runs/verdict-tiny-1234abcd --optimizer adamw    # what other verdicts take over
python -m scripts.publish results/runs/*.rates-small-* results/runs/rates-*-tuning   # what bench_suite trained

Of several none is copied if one is refused. What bench_suite's part claims trained are studies named after its claim
files (<claim>.rates or <claim>.<corpus>), and the trials of their rates. `make tables` finds those files in
results/hardware/<device>/claims: they are to be committed with the runs.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.records import ENDED, Run, find_runs
from harness.sentence import nearest, one_sentence
from harness.tuning.trials import CHOICE, PLAN

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
        for folder in options.folder:
            target = RESULTS / (options.name or folder.resolve().name)
            if target in targets:
                raise ValueError(f"{targets[target]} and {folder} would both become {target}: publish one at a time")
            targets[target] = folder
            publishable(folder, target, options.optimizer)
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
        ValueError: a run is still going or was cut off, or the target is there already or is ignored by git, or no run
            is the optimizer's.
    """
    if target.parent != RESULTS or target.name in ("", ".."):
        raise ValueError(f"--name must be the name of a folder to make under {RESULTS}/, not a path")
    if target.name in UNKEPT:
        raise ValueError(f"{target} is ignored by git: give another --name")
    if target.exists():
        raise ValueError(f"{target} exists already: give another --name, or delete it first")
    runs = find_runs(folder)
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
    """Copy a study, or one optimizer's part of it; the copy appears whole or not at all.

    Raises ValueError where `publishable` does.
    """
    runs = publishable(folder, target, optimizer)
    new = target.with_name(f".new-{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    for run in runs:
        copy_run(run, new / run.folder.relative_to(folder))
    for path in (path for name in (PLAN, CHOICE) for path in folder.rglob(name)):  # of a tuning's folder
        if not any(run.folder.is_relative_to(path.parent) for run in runs):
            continue
        shutil.copy2(path, new / path.relative_to(folder))
    os.replace(new, target)
    return target


if __name__ == "__main__":
    main()
