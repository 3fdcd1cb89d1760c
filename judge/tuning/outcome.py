"""Says what came of a tuning, in lines for the terminal, and refuses a folder that holds trials of another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conventions import quantity
from conventions.config_keys import plain, within
from judge.arms import INDIFFERENT, MACHINE, settings
from judge.records import find_runs
from judge.tuning.search import Space
from judge.tuning.trials import Tuning


def tuning_lines(tuning: Tuning) -> list[str]:
    """Give a line for each trial, the best first, then what the tuning cost and what to beware of."""
    best = tuning.best
    assert best is not None
    lines = []
    for each in [*tuning.again, *tuning.trials]:
        values = ", ".join(f"{key.rpartition('.')[2]} {plain(value)}" for key, value in each.settings.items())
        outcome = each.status if each.loss is None else quantity.loss(each.loss)
        lines.append(f"  {each.steps:>7,} updates  {outcome:>8}  {values}{'   <- chosen' if each is best else ''}")
    cost = f"{quantity.flops(tuning.flops)} FLOPs" if tuning.flops else "unknown FLOPs"
    lines.append(
        f"{tuning.optimizer}: {len(tuning.trials)} trials, {len(tuning.again)} runs at full length (the best and its "
        f"neighbours), {tuning.diverged} diverged, {cost}"
    )
    return lines + [f"warning: {edge}" for edge in tuning.edges]


def refuse_other_trials(folder: Path, flat: Mapping[str, Any], space: Space) -> None:
    """Raise ValueError where the folder holds trials of another model, batch, length or anything else.

    flat: the config of the trials to come at T updates, dotted; what is in the space may differ.
    """
    if not folder.is_dir() or not any(folder.rglob("manifest.json")):
        return
    ours = {key: value for key, value in flat.items() if not within(key, (*INDIFFERENT, *MACHINE))}
    for run in find_runs(folder):
        theirs = settings(run)
        for key in sorted(ours.keys() | theirs.keys()):
            ignored = within(key, MACHINE) or searched(key, space)
            if not ignored and ours.get(key) != theirs.get(key):
                raise ValueError(
                    f"{run.folder} is a trial with {key}={plain(theirs.get(key))} and not {plain(ours.get(key))}: "
                    "give another study, or the same keys"
                )
        if run.steps not in (flat["steps"], flat["steps"] // 2):
            raise ValueError(
                f"{run.folder} is a trial of {run.steps:,} updates, which is neither steps={flat['steps']} nor half "
                "of it: give another study, or the same steps"
            )


def searched(key: str, space: Space) -> bool:
    """Say whether a dotted key, or one of the optimizer's, is searched."""
    return any(name.partition("[")[0] in (key, f"optimizer.{key}") for name in space)
