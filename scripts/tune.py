"""Tunes an optimizer as every other one is tuned: equally many quasi-random trials, at half the length.

    python -m scripts.tune optimizer=soap trials=8 study=my_study steps=2000 model=gpt2_30m
    python -m scripts.tune optimizer=adamw 'range.optimizer.lr=[1e-4,1e-1]'    another range than configs/tuning.yaml's
    python -m scripts.tune optimizer=external optimizer._target_=my_package.MyOpt optimizer.lr=1e-3 launcher=slurm

trials=8 settings of learning rate, weight decay, warm-up and beta2 run for steps/2 updates, on the seed 1000, which no
study should report; the best, and it with the next lower and higher rate, run again for `steps`. Expect them in
results/runs/<study>-tuning/<optimizer>/, with tuned.yaml (the choice, as train.py's overrides, and what it was chosen
from) and learning_rate.svg and .png. Trials that have ended are kept: the same command goes on where it was, and more
trials come on top of those before. launcher=local unless another is given; every other key is train.py's.
"""

import sys
from collections.abc import Sequence

from conventions.sentence import one_sentence
from harness.command_line import answer_help
from harness.sweep.planned import launcher_of, train_all
from harness.words import own_configs, split_tuning
from judge.tuning.outcome import tuning_lines
from scripts.pages import tuning_figure
from scripts.study.tuner import TRIALS, Tuner


def main(arguments: Sequence[str]) -> None:
    with one_sentence():
        flags, words = own_configs(arguments)
        own, rest = split_tuning([*flags, *words])
        tuner = Tuner.of(rest, TRIALS if own["trials"] is None else own["trials"], own["ranges"])
        print(tuner.plan(), flush=True)
        tuner.begin()
        launcher = launcher_of(rest)
        train_all(tuner.trials(), tuner.folder, launcher)
        train_all(tuner.again(), tuner.folder, launcher)
        tuning, choice = tuner.choose()
        drawn = tuning_figure.save({tuning.optimizer: tuning}, tuner.folder / "learning_rate")
        print("\n".join([*tuning_lines(tuning), f"the choice: {choice}", *(f"drawn: {path}" for path in drawn)]))


if __name__ == "__main__":
    answer_help(__doc__)
    main(sys.argv[1:])
