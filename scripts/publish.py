"""Copies finished studies to where git keeps them: config, manifest and metrics of each run, and no weights.

python -m scripts.publish results/runs/my_study                     # to results/my_study/
python -m scripts.publish results/demo --name demo_of_six
python -m scripts.publish results/runs/verdict-tiny-1234abcd --optimizer adamw    # what other verdicts take over
python -m scripts.publish results/runs/*-small-* results/runs/rates-*-tuning         # claims, and trials of their rates

Of several none is copied if one is refused. A study that was published before, and has more runs since, is completed.
A claim's plan and what a tuning searched are copied with the runs. `make tables` finds a claim's file in configs/claim,
or in results/claims where it is one of your own.
"""

from collections.abc import Sequence
from pathlib import Path

from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from judge import publication


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.publish", __doc__)
    parser.add_argument("folder", type=path_argument, nargs="+", help="a study's folder")
    parser.add_argument("--name", help="the folder under results/ to make (default: the study's own name)")
    parser.add_argument("--optimizer", help="publish its runs alone")
    options = parser.parse_args(arguments)
    with one_sentence():
        targets: dict[Path, Path] = {}
        refused: dict[Path, ValueError] = {}
        for folder in options.folder:
            target = publication.RESULTS / (options.name or folder.resolve().name)
            if target in targets:
                raise ValueError(f"{targets[target]} and {folder} would both become {target}: publish one at a time")
            targets[target] = folder
            try:
                publication.publishable(folder, target, options.optimizer)
            except ValueError as error:
                refused[folder] = error
        if refused:
            others = f"; leave out {' '.join(map(str, refused))} to publish the others"
            raise ValueError(f"{next(iter(refused.values()))}{others * (len(refused) < len(targets))}")
        for target, folder in targets.items():
            print(publication.publish(folder, target, options.optimizer))


if __name__ == "__main__":
    main()
