"""A claim's plan for one part, as plan.yaml in the study's folder has it, and which run folders fill it.

`scripts.claims run` writes it before the first run, `scripts.claims plan` for runs that are there. It holds the whole
config of each arm, so that whoever judges the runs needs no Hydra. A run is known by its config, not by its name: it is
an arm's if the two agree on every key that both have, but for those that decide nothing about the weights, or only on
which machine they are computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from conventions import atomic
from conventions.config_keys import differing_keys, flatten, plain, within
from conventions.keywords import construct
from conventions.older_keys import completed
from conventions.run_format import ENDED
from conventions.yaml_file import read_yaml, yaml_text
from judge.arms import INDIFFERENT, MACHINE, Arm, settings, without_copies
from judge.claims.claim import ArmSettings, Claim, PlanCell, Scale
from judge.records import Run, find_runs

PLAN = "plan.yaml"
AT_AN_END = "at an end of what was tried"


@dataclass(frozen=True)
class RateTrials:
    """The result of the trials of an arm's learning rate, which are made before its runs.

    Attributes:
        rates: the best settings, by dotted key.
        about: the keys in words.
        at_an_end: keys whose best value was the lowest or the highest that was tried.
    """

    rates: dict[str, float]
    trials: int
    updates: int
    about: str
    at_an_end: list[str]

    def note(self, length: str) -> str:
        """Return what the rates are the best of; `length` is that of the trials, in words."""
        ends = f", {' and '.join(self.at_an_end)} {AT_AN_END}" * bool(self.at_an_end)
        return f"the best of {self.trials} settings of {self.about} at {length} updates{ends}"


@dataclass(frozen=True)
class ArmPlan:
    """The settings that all runs of an arm share.

    Attributes:
        lengths: in updates, T among them.
        chosen: what the claim's file chooses for it, by dotted key.
        config: composed and resolved, of T and the first seed; None as long as its rate is not known.
        tuned: where its rate comes from, if not from the claim's file.
    """

    lengths: list[int]
    chosen: dict[str, Any]
    config: dict[str, Any] | None = None
    tuned: RateTrials | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        return {**self.chosen, **(self.tuned.rates if self.tuned else {})}


@dataclass(frozen=True)
class StudyPlan:
    """The runs of one part of a claim."""

    claim: str
    scale: str
    part: str
    steps: int  # T
    seeds: list[int]
    arms: dict[str, ArmPlan]

    def write(self, study: Path) -> None:
        """Put it in the study's folder, unless it is there as it is."""
        text = yaml_text(asdict(self))
        if not (study / PLAN).is_file() or (study / PLAN).read_text(encoding="utf-8") != text:
            study.mkdir(parents=True, exist_ok=True)
            atomic.write_text(study / PLAN, text)

    def differs(self, claim: Claim) -> str:
        """Return the first thing in which the plan and the claim's file differ; empty where they agree."""
        scale = claim.scale(self.scale)
        mine: dict[str, Any] = {"claim": self.claim, "T": self.steps, "seeds": self.seeds, "arms": list(self.arms)}
        wanted = {"claim": claim.name, "T": scale.length(self.part), "seeds": scale.seeds}
        wanted |= {"arms": scale.arms_of(self.part)}
        for name, arm in self.arms.items():
            mine |= {f"{name}'s lengths": arm.lengths, **{f"{name}'s {key}": v for key, v in arm.chosen.items()}}
        for name in scale.arms_of(self.part):
            wanted |= {f"{name}'s lengths": scale.lengths(self.part, name)}
            wanted |= {f"{name}'s {key}": value for key, value in scale.overrides(self.part, name).items()}
        unlike = (key for key in {**mine, **wanted} if mine.get(key) != wanted.get(key))
        return next((f"{key} {plain(mine.get(key))}, not {plain(wanted.get(key))}" for key in unlike), "")


def read_plan(claim: Claim, scale: str, part: str, folder: Path) -> StudyPlan:
    """Return the plan of a part whose runs are below `folder`. Raises ValueError, with the command that writes it."""
    path = folder / claim.study(scale, part) / PLAN
    writes = f"python -m scripts.claims plan {claim.word} --scale {scale} --runs {folder}"
    try:
        values = read_yaml(path, f"{writes} writes it anew")
    except FileNotFoundError:
        raise ValueError(f"{path} is not there, which says what each arm's runs are: {writes} writes it") from None
    try:
        plan: StudyPlan = construct(StudyPlan, {**values, "arms": {}}, "")
        arms = {name: construct(ArmPlan, arm, f"arms.{name}") for name, arm in values["arms"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is broken ({' '.join(str(error).split())}): {writes} writes it anew") from None
    arms = {name: replace(arm, config=arm.config and completed(arm.config)) for name, arm in arms.items()}
    plan = replace(plan, arms=arms)
    if difference := plan.differs(claim):
        raise ValueError(f"{path} is of another version of {claim.path} ({difference}): {writes} writes it anew")
    return plan


def read_studies(claim: Claim, scale: str, parts: Sequence[str], folder: Path) -> dict[str, list[Run]]:
    """Return the runs in the folders of these parts, below `folder`; of a part that has not begun there are none."""
    places = {part: folder / claim.study(scale, part) for part in parts}
    return {part: find_runs(place) if any(place.rglob("manifest.json")) else [] for part, place in places.items()}


def sort_runs(
    plan: StudyPlan, scale: Scale, seeds: Sequence[int], runs: Sequence[Run]
) -> tuple[dict[str, Arm], list[str]]:
    """Return the runs of a part by the claim's arms, and a sentence on each run that is of none."""
    configs = {name: flatten(arm.config) for name, arm in plan.arms.items() if arm.config is not None}
    by_arm: dict[str, list[Run]] = {arm: [] for arm in plan.arms}
    strays = []
    for run in runs if configs else []:
        theirs = flatten(run.config)
        wrong = {arm: list(_disagreements(config, theirs, plan.arms[arm].overrides)) for arm, config in configs.items()}
        arm = min(wrong, key=lambda arm: len(wrong[arm]))
        if wrong[arm]:
            strays.append(f"{run.name} is of no arm of the claim and left out: nearest is {arm}, but {wrong[arm][0]}")
        elif run.steps not in plan.arms[arm].lengths or run.seed not in scale.seeds:
            strays.append(f"{run.name} is left out: the claim plans no {arm} of {run.steps:,} updates, seed {run.seed}")
        elif run.seed in seeds:
            by_arm[arm].append(run)
    counted = {run.folder for own in by_arm.values() for run in without_copies(own, one_arm=True)}
    for own in by_arm.values():
        strays += [f"{run.name} repeats another run: counted once" for run in own if run.folder not in counted]
    arms = {}
    for arm, own in by_arm.items():
        kept = [run for run in own if run.folder in counted]
        arms[arm] = Arm(arm, settings(kept[0]) if kept else {}, kept, arm)
    return arms, strays


def fill(plan: StudyPlan, scale: Scale, seeds: Sequence[int], runs: Sequence[Run]) -> dict[PlanCell, Run | None]:
    """Return every run that is planned, and what there is of it: one that has ended, if any has."""
    by_cell: dict[PlanCell, Run] = {}
    for name, arm in sort_runs(plan, scale, seeds, runs)[0].items():
        for run in arm.runs:
            cell = PlanCell(plan.part, name, run.steps, run.seed)
            if cell not in by_cell or by_cell[cell].status not in ENDED:
                by_cell[cell] = run
    return {cell: by_cell.get(cell) for cell in scale.cells([plan.part], seeds)}


def settled(scale: Scale, plans: Mapping[str, StudyPlan]) -> Scale:
    """Return the scale with what the trials of its arms' rates came to; of several parts, each with its name."""
    arms = dict(scale.arms)
    for part, plan in plans.items():
        for name, arm in plan.arms.items():
            if arm.tuned:
                where = f" ({part})" * (len(plans) > 1)
                arms[name] = _with_trials(arms[name], arm.tuned, where, _length_of_trials(plans, name))
    return replace(scale, arms=arms)


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys outside the optimizer in which two composed configs differ."""
    keys = differing_keys([flatten(dict(one)), flatten(dict(other))])
    return [key for key in keys if not within(key, (*INDIFFERENT, "optimizer"))]


def _length_of_trials(plans: Mapping[str, StudyPlan], arm: str) -> str:
    """Return the updates of an arm's trials in words, by part where they differ."""
    updates = {
        part: tuned.updates for part, plan in plans.items() if arm in plan.arms and (tuned := plan.arms[arm].tuned)
    }
    if len(set(updates.values())) == 1:
        return f"{next(iter(updates.values())):,}"
    return " and ".join(f"{number:,} ({part})" for part, number in updates.items())


def _with_trials(arm: ArmSettings, tuned: RateTrials, where: str, length: str) -> ArmSettings:
    ends = [*arm.at_an_end, *(f"{key.removeprefix('optimizer.')}{where}" for key in tuned.at_an_end)]
    _, semicolon, rest = arm.note.partition(";")  # which is not about rates, and stays
    return replace(
        arm, trials=tuned.trials, at_an_end=ends, note=replace(tuned, at_an_end=ends).note(length) + semicolon + rest
    )


def _disagreements(config: Mapping[str, Any], theirs: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on what keeps a run out of an arm.

    A key that only one of them has is a newer or an older default, unless the claim gave it, or it is the optimizer's:
    an external class may take any.
    """
    for key in sorted(config.keys() | theirs.keys()):
        if within(key, (*INDIFFERENT, *MACHINE)) and key != "data.name":
            continue
        if key not in theirs and key in chosen:
            yield f"it has no {key}, which is to be {plain(config[key])}"
        elif key not in config and within(key, ("optimizer",)):
            yield f"its {key} is {plain(theirs[key])} and not left out"
        elif key in config and key in theirs and config[key] != theirs[key]:
            yield f"its {key} is {plain(theirs[key])} and not {plain(config[key])}"
