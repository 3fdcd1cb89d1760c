"""The runs that a claim plans: their configs, composed by Hydra as train.py would, and which run folders are theirs.

A run is known by its config, not by its name: it is an arm's if the two agree on every key that both have, but for
those that decide nothing about the weights, or only on which machine they are computed.
"""

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conventions.config_keys import differing_keys, flatten, plain, within
from conventions.run_format import ENDED
from harness import command_line
from harness.config import parse
from judge.arms import INDIFFERENT, Arm, settings, without_copies
from judge.claims.claim import Claim
from judge.records import Run, find_runs

MACHINE = ("device", "dtype", "compile", "batch.micro")  # how a run is computed; fairness looks at these
GROUPS = ("model", "data", "optimizer", "schedule", "tracker", "launcher")


@dataclass(frozen=True)
class Planned:
    """One run of a claim."""

    claim: Claim
    scale: str
    part: str
    arm: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.arm}-T{self.steps}-s{self.seed}"

    @property
    def study(self) -> str:
        return self.claim.study(self.scale, self.part)

    def experiment(self) -> str:
        """It as an experiment of Hydra's, the text of a YAML: `train.py experiment=<name>` then runs it."""
        chosen = self.claim.scale(self.scale).overrides(self.part, self.arm)
        defaults: list[Any] = [chosen["experiment"]] if "experiment" in chosen else []
        defaults += [{f"override /{key}": value} for key, value in chosen.items() if key in GROUPS]
        values: dict[str, Any] = {"study": self.study, "steps": self.steps, "seed": self.seed}
        for key, value in chosen.items():
            if key not in (*GROUPS, "experiment"):
                _put(values, key, value)
        return "# @package _global_\n" + yaml.safe_dump({"defaults": [*defaults, "_self_"], **values}, sort_keys=False)


def planned(claim: Claim, scale_name: str, parts: Sequence[str], seeds: Sequence[int]) -> list[Planned]:
    """Every run of these parts."""
    scale = claim.scale(scale_name)
    return [
        Planned(claim, scale_name, part, arm, steps, seed)
        for part in parts
        for arm in scale.arms_of(part)
        for steps in scale.lengths(part, arm)
        for seed in seeds
    ]


def composed(claim: Claim, scale_name: str, part: str, arm: str) -> dict[str, Any]:
    """The config of an arm's runs at T, with the first seed.

    Raises ValueError, naming the claim's file and the arm, if it does not compose or is wrong.
    """
    scale = claim.scale(scale_name)
    chosen = {**scale.overrides(part, arm), "steps": scale.length(part), "seed": scale.seeds[0]}
    try:
        values = _composed(tuple(_override(key, value) for key, value in chosen.items()))
    except ValueError as error:
        raise ValueError(f"{claim.path}: the arm {arm} of {scale_name}/{part}: {error}") from None
    return {**copy.deepcopy(values), "study": claim.study(scale_name, part)}


@functools.cache  # a tenth of a second each, and arms are alike in many parts
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    values = command_line.composed(overrides)
    parse(values)
    return values


def sort_runs(
    claim: Claim, scale_name: str, part: str, seeds: Sequence[int], runs: Sequence[Run]
) -> tuple[dict[str, Arm], list[str]]:
    """The runs of a part by the claim's arms, and a sentence on each run that is of none."""
    scale = claim.scale(scale_name)
    configs = {arm: flatten(composed(claim, scale_name, part, arm)) for arm in scale.arms_of(part)}
    by_arm: dict[str, list[Run]] = {arm: [] for arm in configs}
    strays = []
    for run in runs:
        theirs = flatten(run.config)
        wrong = {
            arm: list(_disagreements(config, theirs, scale.overrides(part, arm))) for arm, config in configs.items()
        }
        arm = min(wrong, key=lambda arm: len(wrong[arm]))
        if wrong[arm]:
            strays.append(f"{run.name} is of no arm of the claim and left out: nearest is {arm}, but {wrong[arm][0]}")
        elif run.steps not in scale.lengths(part, arm) or run.seed not in scale.seeds:
            strays.append(f"{run.name} is left out: the claim plans no {arm} of {run.steps:,} updates, seed {run.seed}")
        elif run.seed in seeds:
            by_arm[arm].append(run)
    counted = {run.folder for found in by_arm.values() for run in without_copies(found, one_arm=True)}
    for found in by_arm.values():
        strays += [f"{run.name} repeats another run: counted once" for run in found if run.folder not in counted]
    arms = {}
    for arm, found in by_arm.items():
        kept = [run for run in found if run.folder in counted]
        arms[arm] = Arm(arm, settings(kept[0]) if kept else {}, kept, arm)
    return arms, strays


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys outside the optimizer in which two composed configs differ."""
    keys = differing_keys([flatten(dict(one)), flatten(dict(other))])
    return [key for key in keys if not within(key, (*INDIFFERENT, "optimizer"))]


def _disagreements(config: Mapping[str, Any], theirs: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what keeps a run out of an arm.

    A key that only one of them has is a newer or an older default, unless the claim gave it, or it is the optimizer's:
    a stranger's class may take any.
    """
    for key in sorted(config.keys() | theirs.keys()):
        if within(key, (*INDIFFERENT, *MACHINE)) and key != "data.name":
            continue
        if key not in theirs and key in given:
            yield f"it has no {key}, which is to be {plain(config[key])}"
        elif key not in config and within(key, ("optimizer",)):
            yield f"its {key} is {plain(theirs[key])} and not left out"
        elif key in config and key in theirs and config[key] != theirs[key]:
            yield f"its {key} is {plain(theirs[key])} and not {plain(config[key])}"


def _override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar; an optimizer's keys are open, as on train.py's command line."""
    plain_word = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return f"{'++' if key.startswith('optimizer.') else ''}{key}={value if plain_word else json.dumps(value)}"


def _put(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        mapping = mapping.setdefault(key, {})
    mapping[last] = value


def read_studies(claim: Claim, scale: str, parts: Sequence[str], folder: Path) -> dict[str, list[Run]]:
    """The runs in the folders of these parts, below `folder`; of a part that has not begun there are none."""
    places = {part: folder / claim.study(scale, part) for part in parts}
    return {part: find_runs(place) if any(place.rglob("manifest.json")) else [] for part, place in places.items()}


def find_planned(
    claim: Claim, scale: str, parts: Sequence[str], seeds: Sequence[int], folder: Path
) -> dict[Planned, Run | None]:
    """Every planned run, and what there is of it below `folder`: one that has ended, if any has."""
    found: dict[tuple[str, str, int, int], Run] = {}
    for part, runs in read_studies(claim, scale, parts, folder).items():
        for name, arm in sort_runs(claim, scale, part, seeds, runs)[0].items():
            for each in arm.runs:
                key = (part, name, each.steps, each.seed)
                if key not in found or found[key].status not in ENDED:
                    found[key] = each
    jobs = planned(claim, scale, parts, seeds)
    return {job: found.get((job.part, job.arm, job.steps, job.seed)) for job in jobs}
