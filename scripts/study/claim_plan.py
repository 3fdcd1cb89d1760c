"""A claim's runs before they start: whether each of them is sound, and what they are, for the table of their costs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from conventions.keywords import construct
from conventions.run_format import ENDED
from harness.config import parse
from harness.device import resolve_device
from harness.schedule import build_schedule
from harness.sweep.launcher import runs_at_once
from harness.sweep.planned import launcher_of
from judge.claims.claim import PlanCell
from judge.records import Run
from models.plan import check_model
from optimizers.plan import check_optimizer
from scripts.study.claim_runs import ClaimRuns, compose_arm
from scripts.study.claim_tokens import check_tokenizer
from scripts.study.plan_table import PlanLine


def check_arms(asked: ClaimRuns) -> None:
    """Find all that train.py would find wrong with a run before it touches its data.

    Raises ValueError, naming the claim's file and the arm, and what `check_tokenizer` raises.
    """
    claim, scale = asked.claim, asked.claim.scale(asked.scale)
    for part, arm in asked.places:
        cfg = parse(compose_arm(claim, asked.scale, part, arm, asked.of_runs))
        try:
            check_model(cfg.model, cfg.context, cfg.seed)
            check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")
            for steps in scale.lengths(part, arm):
                construct(build_schedule, cfg.schedule, "schedule", steps)
        except ValueError as error:
            raise ValueError(f"{claim.path}: the arm {arm} of {asked.scale}/{part}: {error}") from None
    check_tokenizer(asked)


def check_device(asked: ClaimRuns) -> None:
    """Raise ValueError where the runs would be on a device that this machine does not have."""
    device = str(compose_arm(asked.claim, asked.scale, *asked.places[0], asked.of_runs)["device"])
    if runs_at_once(launcher_of(asked.overrides, None), device) is not None:
        resolve_device(device)


def plan_lines(asked: ClaimRuns, runs: Mapping[PlanCell, Run | None]) -> Iterator[PlanLine]:
    """Yield each arm and length, with the trials of its rate before; arms that are alike share their trials."""
    shown = set[Path]()
    for part, arm in asked.places:
        cfg = parse(compose_arm(asked.claim, asked.scale, part, arm, asked.of_runs))
        tuner = asked.tuners.get((part, arm))
        if tuner and tuner.folder not in shown:
            shown.add(tuner.folder)
            yield PlanLine(part, f"{arm}: trials", cfg, tuner.steps // 2, [each.ended for each in tuner.trials()])
        for steps in asked.claim.scale(asked.scale).lengths(part, arm):
            there = [run for cell, run in runs.items() if cell[:3] == (part, arm, steps)]
            yield PlanLine(part, arm, cfg, steps, [run is not None and run.status in ENDED for run in there])
