"""One optimizer's tuning: its trials before they have run, and what is chosen from them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.config_keys import flatten, optimizer_name, plain
from conventions.planned_run import PlannedRun
from conventions.run_format import RUNS
from harness.command_line import composed
from harness.config import parse
from harness.sweep.planned import plan_run
from judge.tuning.outcome import refuse_other_trials, searched
from judge.tuning.search import Space, Wanted, apply, neighbours, search_space
from judge.tuning.search import settings as quasi_random
from judge.tuning.trials import Tuning, tuning_of, write_choice, write_plan
from models.plan import check_model
from optimizers.plan import check_optimizer, defaults_of

TRIALS, SEED = 8, 1000
AGAIN = 3  # the best, and its neighbours on either side


@dataclass(frozen=True)
class Tuner:
    """One optimizer's trials, before and after they have run."""

    optimizer: str  # as runs name it
    values: dict[str, Any]  # the composed config
    of_optimizer: list[str]  # the overrides that chose the optimizer
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
        optimizer = optimizer_name(cfg.optimizer)
        values["optimizer"] = {**defaults_of(info.constructor), **values["optimizer"]}
        space = search_space(optimizer, flatten(values), ranges)
        values["optimizer"] = {k: v for k, v in values["optimizer"].items() if k in cfg.optimizer or searched(k, space)}
        chosen = {key.partition("[")[0] for key in space}
        ours = [word for word in words if word.startswith(("optimizer", "allow_targets"))]
        fixed = [word for word in ours if word.partition("=")[0] not in chosen]
        tuner = Tuner(optimizer, values, fixed, space, trials, RUNS / f"{cfg.study}-tuning" / optimizer)
        refuse_other_trials(tuner.folder, tuner.flat, space)
        return tuner

    @property
    def steps(self) -> int:
        """Return T, the number of updates of the final runs."""
        return self.values["steps"]

    @property
    def flat(self) -> dict[str, Any]:
        """Return the config before any choice, by dotted keys."""
        return flatten(self.values)

    def begin(self) -> None:
        write_plan(self.folder, self.optimizer, self.steps, self.space)

    def trials(self) -> list[PlannedRun]:
        return [self._training(self.steps // 2, chosen) for chosen in quasi_random(self.space, self.count)]

    def again(self) -> list[PlannedRun]:
        """Plan the best trial and its neighbours, at T. Raises ValueError if every trial diverged."""
        trials = self.read().trials
        if not trials or trials[0].loss is None:
            key = next(iter(self.space))
            raise ValueError(f"every trial of {self.optimizer} diverged: give a lower range.{key}=[low,high]")
        return [self._training(self.steps, chosen) for chosen in neighbours(self.space, trials[0].settings, self.count)]

    def read(self) -> Tuning:
        """Return the tuning as its folder holds it."""
        return tuning_of(self.folder.parent)[self.optimizer]

    def choose(self) -> tuple[Tuning, Path]:
        """Write tuned.yaml."""
        tuning = self.read()
        return tuning, write_choice(tuning, self.overrides(tuning))

    def overrides(self, tuning: Tuning) -> list[str]:
        """Return the overrides with which train.py runs the best."""
        assert tuning.best is not None
        changes = apply(self.flat, tuning.best.settings)
        return [
            *self.of_optimizer,
            *(f"{key}={json.dumps(value).replace(' ', '')}" for key, value in changes.items()),
        ]

    def plan(self) -> str:
        """Describe its size, before anything starts."""
        trials, batch, half = self.trials(), self.values["batch"]["tokens"], self.steps // 2
        left = sum(not each.ended for each in trials)
        tokens = sum(each.tokens for each in trials) + AGAIN * self.steps * batch
        ranges = ", ".join(f"{key} {plain(each.low)} to {plain(each.high)}" for key, each in self.space.items())
        return (
            f"{self.optimizer}: {self.count} trials of {half:,} updates ({left} left), the best and its neighbours "
            f"for {self.steps:,}: {tokens / 1e6:,.1f}M tokens\n  {ranges}"
        )

    def _training(self, steps: int, chosen: Mapping[str, float]) -> PlannedRun:
        changes = {**apply(self.flat, chosen), "steps": steps, "study": self.folder.parent.name}
        return plan_run(self.values, changes, self.folder)
