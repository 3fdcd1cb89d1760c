"""One optimizer's tuning: its trials before they have run, and what is chosen from them."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conventions import quantity
from conventions.config_keys import flatten, plain, within
from conventions.planned_run import PlannedRun
from conventions.run_format import RUNS
from harness.command_line import composed
from harness.config import parse
from harness.sweep.planned import plan_run
from judge.arms import INDIFFERENT, MACHINE, settings
from judge.records import find_runs
from judge.tuning.search import Space, Wanted, apply, neighbours, search_space
from judge.tuning.search import settings as quasi_random
from judge.tuning.trials import Tuning, tuning_of, write_choice, write_plan
from models.plan import check_model
from optimizers.plan import check_optimizer

TRIALS, SEED = 8, 1000
AGAIN = 3  # the best, and its neighbours on either side
OWN = re.compile(r"(trials|range\.[^=]+)=(.*)")


@dataclass(frozen=True)
class Tuner:
    """One optimizer's trials, before and after they have run."""

    optimizer: str  # as runs name it
    values: dict[str, Any]  # the composed config
    given: list[str]  # the overrides that chose the optimizer
    space: Space
    count: int
    folder: Path

    @staticmethod
    def of(arguments: Sequence[str], trials: int = TRIALS, ranges: Wanted | None = None) -> "Tuner":
        """Build the tuner of train.py's arguments. Raises ValueError if they are wrong, before anything is trained."""
        words = [argument.lstrip("+") for argument in arguments]
        seed = [] if any(word.startswith("seed=") for word in words) else [f"seed={SEED}"]
        values = composed([*(word for word in words if not word.startswith(("launcher", "hydra"))), *seed])
        cfg = parse(values)
        if cfg.steps < 2 or trials < 1:
            raise ValueError(f"steps must be at least 2 and trials at least 1, not {cfg.steps} and {trials}")
        if cfg.run_dir or cfg.resume:
            raise ValueError("run_dir and resume are not for a tuning: study names its folder, and it always resumes")
        check_model(cfg.model, cfg.context, cfg.seed)
        device = "cpu" if cfg.device == "cpu" else "meta"  # the runs may have a GPU that is not here
        info = check_optimizer(cfg.optimizer, cfg.allow_targets, device).info
        optimizer = str(cfg.optimizer.get("_target_") or cfg.optimizer["name"])
        values["optimizer"] = {**_searchable(info.constructor), **values["optimizer"]}
        space = search_space(optimizer, flatten(values), ranges)
        values["optimizer"] = {k: v for k, v in values["optimizer"].items() if k in cfg.optimizer or _within(k, space)}
        searched = {key.partition("[")[0] for key in space}
        ours = [word for word in words if word.startswith(("optimizer", "allow_targets"))]
        given = [word for word in ours if word.partition("=")[0] not in searched]
        tuner = Tuner(optimizer, values, given, space, trials, RUNS / f"{cfg.study}-tuning" / optimizer)
        tuner.refuse_other_trials()
        return tuner

    @property
    def steps(self) -> int:
        """T."""
        return self.values["steps"]

    @property
    def flat(self) -> dict[str, Any]:
        """The config before any choice, dotted."""
        return flatten(self.values)

    def begin(self) -> None:
        write_plan(self.folder, self.optimizer, self.steps, self.space)

    def trials(self) -> list[PlannedRun]:
        return [self._training(self.steps // 2, chosen) for chosen in quasi_random(self.space, self.count)]

    def again(self) -> list[PlannedRun]:
        """The best trial and its neighbours, at T. Raises ValueError if every trial diverged."""
        found = self.read().trials
        if not found or found[0].loss is None:
            key = next(iter(self.space))
            raise ValueError(f"every trial of {self.optimizer} diverged: give a lower range.{key}=[low,high]")
        return [self._training(self.steps, chosen) for chosen in neighbours(self.space, found[0].settings, self.count)]

    def read(self) -> Tuning:
        """The tuning as its folder holds it."""
        return tuning_of(self.folder.parent)[self.optimizer]

    def choose(self) -> tuple[Tuning, Path]:
        """Write tuned.yaml."""
        tuning = self.read()
        return tuning, write_choice(tuning, self.overrides(tuning))

    def overrides(self, tuning: Tuning) -> list[str]:
        """What train.py takes to run the best."""
        assert tuning.best is not None
        changes = apply(self.flat, tuning.best.settings)
        return [*self.given, *(f"{key}={json.dumps(value).replace(' ', '')}" for key, value in changes.items())]

    def plan(self) -> str:
        """Its size, before anything starts."""
        trials, batch, half = self.trials(), self.values["batch"]["tokens"], self.steps // 2
        left = sum(not each.ended for each in trials)
        tokens = sum(each.tokens for each in trials) + AGAIN * self.steps * batch
        ranges = ", ".join(f"{key} {plain(each.low)} to {plain(each.high)}" for key, each in self.space.items())
        return (
            f"{self.optimizer}: {self.count} trials of {half:,} updates ({left} left), the best and its neighbours "
            f"for {self.steps:,}: {tokens / 1e6:,.1f}M tokens\n  {ranges}"
        )

    def refuse_other_trials(self) -> None:
        """Raises ValueError where the folder holds trials of another model, batch, length or anything else."""
        if not self.folder.is_dir() or not any(self.folder.rglob("manifest.json")):
            return
        ours = {key: value for key, value in self.flat.items() if not within(key, (*INDIFFERENT, *MACHINE))}
        for run in find_runs(self.folder):
            theirs = settings(run)
            for key in sorted(ours.keys() | theirs.keys()):
                ignored = within(key, MACHINE) or _within(key, self.space)
                if not ignored and ours.get(key) != theirs.get(key):
                    raise ValueError(
                        f"{run.folder} is a trial with {key}={plain(theirs.get(key))} and not {plain(ours.get(key))}: "
                        "give another study, or the same keys"
                    )
            if run.steps not in (self.steps, self.steps // 2):
                raise ValueError(
                    f"{run.folder} is a trial of {run.steps:,} updates, which is neither steps={self.steps} nor half "
                    "of it: give another study, or the same steps"
                )

    def _training(self, steps: int, chosen: Mapping[str, float]) -> PlannedRun:
        changes = {**apply(self.flat, chosen), "steps": steps, "study": self.folder.parent.name}
        return plan_run(self.values, changes, self.folder)


def tuning_lines(tuning: Tuning) -> list[str]:
    """What came of it: a line for each trial, the best first, then what it cost and what to beware of."""
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


def split(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """A tuning's own keys, {"trials": int or None, "ranges": {key: [low, high]}}, and train.py's."""
    own: dict[str, Any] = {"trials": None, "ranges": {}}
    rest = []
    for argument in arguments:
        found = OWN.fullmatch(argument.lstrip("+"))
        if not found:
            rest.append(argument)
            continue
        try:
            value = yaml.safe_load(found[2])
        except yaml.YAMLError:
            value = found[2]
        if found[1] == "trials":
            if type(value) is not int:
                raise ValueError(f"trials must be a whole number, not {found[2]!r}")
            own["trials"] = value
        else:
            own["ranges"][found[1].removeprefix("range.")] = value
    return own, rest


def _searchable(constructor: Any) -> dict[str, Any]:
    """The defaults in a constructor's own signature: the config of an external class need not name what is searched."""
    parameters = inspect.signature(constructor).parameters.items()
    kinds = (bool, int, float, str, list, tuple)
    found = {key: each.default for key, each in parameters if isinstance(each.default, kinds)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _within(key: str, space: Space) -> bool:
    """Whether a dotted key, or one of the optimizer's, is searched."""
    return any(name.partition("[")[0] in (key, f"optimizer.{key}") for name in space)
