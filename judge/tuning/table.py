"""A tuning as Markdown: of each optimizer every trial, the best first."""

from pathlib import Path

from conventions import quantity
from conventions.config_keys import plain
from conventions.grid import Grid, markdown
from judge.records import find_runs
from judge.timing import device_of
from judge.tuning.trials import Tuning, tuning_of


def tuning_table(folder: Path) -> str:
    """Write the table of a study's tuning, whose folder this is. Raises ValueError where it holds no run."""
    first = find_runs(folder)[0]
    about = (
        f"Trials of {first.config['model']['name']} on {first.known('data', 'name')}, "
        f"{first.config['batch']['tokens']:,} tokens per update, {device_of(first)}."
    )
    parts = [about]
    for tuning in tuning_of(folder).values():
        parts += [markdown(trials_grid(tuning))]
        parts += ["\n".join(f"- {each}" for each in (*tuning.edges, tuning.unended) if each)]
    return "\n\n".join(part for part in parts if part) + "\n"


def trials_grid(tuning: Tuning) -> Grid:
    """Make a table of the trials; runs at T, where there are any, come before the shorter ones."""
    trials = [*tuning.again, *tuning.trials]
    keys = list(dict.fromkeys(key for each in trials for key in each.settings))
    rows = [
        [tuning.optimizer, *(plain(each.settings[key]) if key in each.settings else "" for key in keys),
         quantity.steps(each.steps), str(each.seed), each.status if each.loss is None else quantity.loss(each.loss)]
        for each in trials
    ]  # fmt: skip
    names = [key.removeprefix("optimizer.") for key in keys]
    return Grid(tuning.optimizer, ["optimizer", *names, "updates", "seed", "final loss"], rows)
