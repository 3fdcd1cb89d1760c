"""A claim's runs: composed by Hydra into a plan, begun in the order of their worth, and trained until the time is over.

Where the scale asks for trials of its arms' learning rates, these come first; an arm's plan is written when its own
have ended. Runs go on from their newest checkpoint the next time the same command is given.
"""

import copy
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conventions.config_keys import flatten, optimizer_name
from conventions.planned_run import PlannedRun
from conventions.run_format import ENDED, RUNS, read_status
from data.plan import check_data
from harness import command_line
from harness.config import config_hash, parse
from harness.sweep.planned import launcher_of, plan_run, refuse_fixed, sweep_until
from harness.words import own_configs
from judge.claims.claim import Claim, PlanCell
from judge.claims.plan import ArmPlan, StudyPlan, fill, read_studies
from judge.publication import copy_run
from judge.records import Run
from judge.tuning.rates import best_rates, rate_space
from judge.tuning.trials import SUFFIX
from scripts.study.published import ended_twin
from scripts.study.tuner import SEED, Tuner

TOKENIZER = "data.tokenizer"  # given on the command line, it is that of every run


def compose_arm(claim: Claim, scale_name: str, part: str, arm: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of an arm's runs at T, with the first seed.

    Raises ValueError, naming the claim's file and the arm, if it does not compose or is wrong.
    """
    scale = claim.scale(scale_name)
    chosen = {**scale.overrides(part, arm), "steps": scale.length(part), "seed": scale.seeds[0]}
    try:
        values = _composed((*(_override(key, value) for key, value in chosen.items()), *overrides))
    except ValueError as error:
        raise ValueError(f"{claim.path}: the arm {arm} of {scale_name}/{part}: {error}") from None
    return {**copy.deepcopy(values), "study": claim.study(scale_name, part)}


@functools.cache  # a tenth of a second each, and arms are alike in many parts
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    values = command_line.composed(overrides)
    parse(values)
    return values


def _override(key: str, value: Any) -> str:
    """Write `key=value` in Hydra's grammar; an optimizer's keys are open, as on train.py's command line."""
    plain_word = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return f"{'++' if key.startswith('optimizer.') else ''}{key}={value if plain_word else json.dumps(value)}"


@dataclass(frozen=True)
class ClaimRuns:
    """Says which runs of a claim are asked for.

    Attributes:
        overrides: where and how the runs are computed, as `FREE` allows.
        place: the folder that holds the studies.
    """

    claim: Claim
    scale: str
    parts: Sequence[str]
    seeds: Sequence[int]
    overrides: Sequence[str] = ()
    place: Path = RUNS

    def __post_init__(self) -> None:
        refuse_fixed(self.overrides, str(self.claim.path))

    @property
    def of_runs(self) -> list[str]:
        """Return the overrides that are not the sweep's."""
        return [word for word in self.overrides if not word.lstrip("+").startswith(("launcher", "hydra"))]

    @property
    def flags(self) -> list[str]:
        """Return the flag of the user's own configs, in which an arm's optimizer may be."""
        return own_configs(self.overrides)[0]

    @property
    def of_plans(self) -> list[str]:
        """Return the overrides that decide what the runs are: rates that are best for other tokens are no rates."""
        return [*self.flags, *(word for word in self.overrides if word.lstrip("+").startswith(f"{TOKENIZER}="))]

    def write(self, plans: Mapping[str, StudyPlan]) -> None:
        for part, plan in plans.items():
            plan.write(self.place / self.claim.study(self.scale, part))

    @functools.cached_property
    def places(self) -> list[tuple[str, str]]:
        return [(part, arm) for part in self.parts for arm in self.claim.scale(self.scale).arms_of(part)]

    @functools.cached_property
    def tuners(self) -> dict[tuple[str, str], Tuner]:
        """Return the trials of each arm's rate, where the scale asks for them; arms that are alike share theirs."""
        scale = self.claim.scale(self.scale)
        return {place: self._tuner(*place, scale.rate_trials) for place in self.places if scale.rate_trials}

    def plans(self) -> dict[str, StudyPlan]:
        """Plan the studies by part, as far as the rates are known."""
        scale = self.claim.scale(self.scale)
        arms: dict[str, dict[str, ArmPlan]] = {part: {} for part in self.parts}
        for part, arm in self.places:
            tuner = self.tuners.get((part, arm))
            tried = tuner is not None and all(run.ended for run in tuner.trials())
            tuned = best_rates(tuner.read(), tuner.flat) if tuner and tried else None
            config = compose_arm(self.claim, self.scale, part, arm, self.of_plans)
            for key, value in (tuned.rates if tuned else {}).items():
                config["optimizer"][key.removeprefix("optimizer.")] = value
            known = config if tuned or not tuner else None
            arms[part][arm] = ArmPlan(scale.lengths(part, arm), scale.overrides(part, arm), known, tuned)
        return {
            part: StudyPlan(self.claim.name, self.scale, part, scale.length(part), scale.seeds, arms[part])
            for part in self.parts
        }

    def runs_by_cell(self, plans: Mapping[str, StudyPlan]) -> dict[PlanCell, Run | None]:
        """Return every planned run, and what there is of it."""
        scale, studies = self.claim.scale(self.scale), read_studies(self.claim, self.scale, self.parts, self.place)
        filled = [fill(plan, scale, self.seeds, studies[part]) for part, plan in plans.items()]
        return {cell: run for each in filled for cell, run in each.items()}

    def planned(self, plans: Mapping[str, StudyPlan], cells: Iterable[PlanCell]) -> list[PlannedRun]:
        """Return the runs of these cells, without those of arms whose rate is not known."""
        runs = []
        for cell in cells:
            arm = plans[cell.part].arms[cell.arm]
            if arm.config is not None:
                values = compose_arm(self.claim, self.scale, cell.part, cell.arm, self.of_runs)
                changes = {"steps": cell.steps, "seed": cell.seed, **(arm.tuned.rates if arm.tuned else {})}
                folder = self.place / self.claim.study(self.scale, cell.part)
                runs.append(plan_run(values, changes, folder, f"{self.claim.name}-{cell.name}"))
        return runs

    def trials(self) -> list[PlannedRun]:
        """Return the trials that are left, of every rate that is to be found."""
        left: dict[Path, PlannedRun] = {}
        for place, tuner in self.tuners.items():
            own = {key: tuner.values[key] for key in ("study", "seed")}
            values = {**compose_arm(self.claim, self.scale, *place, self.of_runs), **own}
            for run, trial in zip(tuner.trials(), replace(tuner, values=values).trials(), strict=True):
                if not run.ended:
                    name = f"{tuner.values['study']}-{run.name}"
                    left[run.folder] = PlannedRun(name, {**trial.config, "run_dir": str(run.folder)})
        return list(left.values())

    def worth(self, cell: PlanCell, run: Run | None) -> tuple[Any, ...]:
        """Return the key by which runs are sorted, seed by seed.

        What failed before comes last; a seed's runs at T come before its other lengths, and the arms of the statement
        that decides before others.
        """
        scale = self.claim.scale(self.scale)
        deciding = {name.rpartition("/")[2] for name in self.claim.statements[0].arms}
        failed = run is not None and run.status == "failed"
        return failed, cell.seed, cell.steps != scale.length(cell.part), cell.arm not in deciding, cell.steps

    def _tuner(self, part: str, arm: str, count: int) -> Tuner:
        """Make an arm's tuner. Raise ValueError where something to be swept is no key."""
        values = {**compose_arm(self.claim, self.scale, part, arm, self.of_plans), "study": "rates", "seed": SEED}
        keys = self.claim.scale(self.scale).arms[arm].sweep
        values["study"] = f"rates-{config_hash({**values, 'sweep': keys} if keys else values)[:8]}"
        optimizer = optimizer_name(values["optimizer"])
        try:
            space = rate_space(optimizer, flatten(values), keys)
        except ValueError as error:
            raise ValueError(f"{self.claim.path}: {self.scale}.arms.{arm}.sweep: {error}") from None
        return Tuner(optimizer, values, [], space, count, self.place / f"{values['study']}{SUFFIX}" / optimizer)


def run(asked: ClaimRuns, end: float | None = None) -> int:
    """Train what is left, the trials of the rates first; return the sweeps' exit code.

    end: of the call, on the monotonic clock: what is being trained is interrupted in time, and SystemExit(0) raised.
    """
    for tuner in asked.tuners.values():
        tuner.begin()
    trials = asked.trials()
    failed_before = [trial for trial in trials if read_status(trial.folder) == "failed"]
    _sweep(asked, [trial for trial in trials if trial not in failed_before], end)
    plans = asked.plans()
    asked.write(plans)
    by_cell = asked.runs_by_cell(plans)
    _refuse_other_tokens(asked, by_cell.values())
    left = [cell for cell, each in by_cell.items() if not (each and each.status in (*ENDED, "running"))]
    left.sort(key=lambda cell: -cell.steps if end is None else asked.worth(cell, by_cell[cell]))
    runs = asked.planned(plans, left)
    taken = [run for run in runs if _take_over(run)]
    running = sum(each is not None and each.status == "running" for each in by_cell.values())
    also = f", {running} still running" * bool(running)
    also += f", {len(taken)} taken over from other claims" * bool(taken)
    also += f", {len(left) - len(runs)} wait for their arm's rate" * (len(left) > len(runs))
    print(f"{asked.claim.name}, scale {asked.scale}: {len(left)} of {len(by_cell)} runs to do{also}", flush=True)
    return _sweep(asked, [run for run in runs if run not in taken], end) or _sweep(asked, failed_before, end)


def _sweep(asked: ClaimRuns, runs: Sequence[PlannedRun], end: float | None) -> int:
    place = RUNS / f"{asked.claim.name}-{asked.scale}"
    often = not any(word.startswith("checkpoint.every=") for word in asked.overrides)
    return sweep_until(runs, place, launcher_of(asked.overrides, None), end, often)


def _take_over(run: PlannedRun) -> bool:
    """Copy the same run from another study here, if it has ended there: AdamW's ladder is one for several claims."""
    for place in RUNS.glob(f"*/{run.folder.name}"):
        if twin := ended_twin(run, place):
            copy_run(twin, run.folder)
            return True
    return False


def _refuse_other_tokens(asked: ClaimRuns, runs: Iterable[Run | None]) -> None:
    """Raise ValueError where the runs that are there were trained on other tokens than those to come would be."""
    known: dict[str, str] = {}
    for run in runs:
        theirs = run.known("data", "fingerprint") if run else None
        if run is None or theirs is None:
            continue
        section = json.dumps({key: value for key, value in run.config["data"].items() if key != "dir"}, sort_keys=True)
        if section not in known:
            here = dict(word.removeprefix("data.").split("=", 1) for word in asked.of_runs if word.startswith("data."))
            known[section] = check_data({**run.config["data"], **here})().fingerprint
        if known[section] != theirs:
            name = str(run.config["data"].get("tokenizer"))
            files = f"files of the corpus{f' and of {TOKENIZER}={name}' * name.startswith('hf:')}"
            raise ValueError(
                f"{run.folder} was trained on other tokens than this machine prepares now: bring the old {files} back, "
                f"or move {run.folder.parent} away"
            )
