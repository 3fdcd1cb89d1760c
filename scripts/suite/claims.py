"""bench_suite's part claims: the runs of several claims, in the order of their worth, as many as a call's time holds.

Before a stage's runs come the trials of its arms' learning rates. Runs are begun only where they are expected to end
within the call, by the time that the same arm took before; the one that is first in line is begun in any case, and goes
on in the next call from its checkpoint.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.claims.claim import Claim
from harness.claims.planned import Planned, find_planned
from harness.claims.verdict import Verdict, verify
from harness.records import ENDED, Run, read_run
from scripts.pages.claim_table import as_json, render
from scripts.pages.conclusions import by_claim, section, summary
from scripts.publish import copy_run
from scripts.study.claim_cost import check_arms
from scripts.study.sweep import RUNS
from scripts.suite import rates
from scripts.suite.claim_plan import Found, Plan
from scripts.suite.folder import Cell, Deadline, Folder, figure, markdown
from scripts.suite.training import Job, seconds_per_update, train

FILE, TABLE = "claims.json", "claims.md"
RESERVE = 15  # seconds that a call keeps for verdicts and tables
TRIALS = 4  # of each arm's learning rate
MARGIN = 1.2  # on what a run is expected to take
MOST = 10  # runs in one sweep: their weights and optimizers' state are on the disk until it ends
GUESS = 4.0  # of a kind of run that has never ended here, times the slowest that has


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """As many runs as the time holds, then verdicts on what there is. How many runs are left."""
    swept: list[rates.Row] = folder.read(FILE, {"scale": plan.scale}).get("rates", [])
    find = partial(_line, plan, folder, swept)
    line = find()
    for found in line.claims.values():
        check_arms(found.claim, plan.scale, list(found.claim.scale(plan.scale).parts))
    begun, broken = False, set[str]()
    while deadline.left > RESERVE:
        ready = [job for job in line.ready if job.name not in broken]
        chosen = choose(ready, line.took, deadline.left - RESERVE, begun)
        if not chosen:
            break
        say(f"{line.left} runs to do; now {len(chosen)} of them, {chosen[0].name} first")
        whole, failure = True, None
        try:
            whole = train({job.name: job.experiment() for job in chosen}, plan.overrides, deadline.left - RESERVE)
        except ValueError as error:  # of some run, not of the others: it is left to the next call
            failure, broken = error, broken | {job.name for job in chosen}
        before, line, begun = line.ended, find(), True
        for run in line.ended - before:  # a verdict needs none of it, and one stage of SOAP's would fill 50 GB
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        if failure and not line.ended - before:
            keep(plan, line.claims, swept, folder)
            raise failure
        if failure:
            say(str(failure))
        if not whole:
            break
    keep(plan, line.claims, swept, folder)
    return line.left


def choose(todo: Sequence[Job], took: Mapping[str, float], seconds: float, begun: bool) -> list[Job]:
    """The runs that go into one sweep: those first in line that fit, or the first alone, whose time nobody knows."""
    chosen: list[Job] = []
    guess = GUESS * max(took.values(), default=math.inf)
    for job in todo:
        expected = MARGIN * job.steps * took.get(job.kind, guess)
        if expected > seconds:
            return chosen or ([job] if job.kind not in took or not begun else [])
        if len(chosen) == MOST:
            return chosen
        chosen.append(job)
        seconds -= expected
    return chosen


def _runs(plan: Plan, claim: Claim) -> dict[Planned, Run | None]:
    """Every planned run of a claim, with what is there of it."""
    scale = claim.scale(plan.scale)
    return find_planned(claim, plan.scale, list(scale.parts), scale.seeds, RUNS)


@dataclass(frozen=True)
class Line:
    """What is left.

    Attributes:
        ready: the runs that can begin, in order; a stage's own wait for the rates of its arms, the next stage for it.
        left: how many there are, with those that wait.
        took: by kind of run the seconds per update of what ended.
        ended: the folders of that.
    """

    claims: dict[str, Found]
    ready: list[Job]
    left: int
    took: dict[str, float]
    ended: set[Path]


def _line(plan: Plan, folder: Folder, swept: list[rates.Row]) -> Line:
    claims = {stage.claim: plan.find(stage.claim, folder, swept) for stage in plan.stages()}
    runs = {name: _runs(plan, found.claim) for name, found in claims.items()}
    _share(plan, claims, runs)
    ended: dict[Path, tuple[str, Run]] = {}
    for name, found in claims.items():
        mine = [(found.kind(job.part, job.arm), each) for job, each in runs[name].items() if each]
        mine += [(sweep.name, run) for sweep in found.sweeps.values() for run in sweep.runs()]
        ended |= {each.folder: (kind, each) for kind, each in mine if each.status in ENDED}
    took: dict[str, float] = {}
    for kind, each in ended.values():
        if seconds := seconds_per_update(each):
            took[kind] = max(took.get(kind, 0.0), seconds)
    names: set[str] = set()
    ready: list[Job] = []
    blocked = False
    for stage in plan.stages():
        found = claims[stage.claim]
        planned_here = [(j, each) for j, each in runs[stage.claim].items() if not stage.arms or j.arm in stage.arms]
        waiting = {(j.part, j.arm): None for j, _ in planned_here if found.waits(j.part, j.arm)}
        trials = [job for place in waiting for job in found.sweeps[place].jobs()]
        left = [j for j, each in planned_here if not (each and each.status in (*ENDED, "running"))]
        jobs = [Job(f"{j.claim.name}-{j.name}", found.kind(j.part, j.arm), j.steps, j.experiment)
                for j in sorted(left, key=lambda j: j.seed)]  # fmt: skip
        if not blocked:
            ready += {job.name: job for job in (trials if waiting else jobs) if job.name not in names}.values()
        blocked |= bool(waiting)
        names |= {job.name for job in (*trials, *jobs)}
    return Line(claims, ready, len(names), took, set(ended))


def _share(plan: Plan, claims: Mapping[str, Found], runs: dict[str, dict[Planned, Run | None]]) -> None:
    """Copy what has ended to claims that plan the same and have not begun it: AdamW's ladder is trained once."""
    ended: dict[tuple[str, int, int], Run] = {}
    for wanted in (False, True):
        for name, found in claims.items():
            for job, each in runs[name].items():
                key = (found.kind(job.part, job.arm), job.steps, job.seed)
                if each and each.status in ENDED:
                    ended[key] = each
                elif wanted and key in ended and not (each or found.waits(job.part, job.arm)):
                    place = RUNS / job.study / ended[key].folder.name
                    copy_run(ended[key], place)
                    runs[name][job] = read_run(place)


def keep(plan: Plan, claims: Mapping[str, Found], swept: list[rates.Row], folder: Folder) -> None:
    """How far each claim is, and its verdict so far."""
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, Verdict] = {}
    text = ""
    for name, claim in ((name, found.claim) for name, found in claims.items()):
        runs = _runs(plan, claim)
        status = [each.status if each else None for each in runs.values()]
        row: dict[str, Any] = {
            "claim": name, "file": str(claim.path), "runs": len(runs), "ended": sum(each in ENDED for each in status),
            "diverged": status.count("diverged"), "verdict": None,
        }  # fmt: skip
        if row["ended"]:
            parts, seeds = list(claim.scale(plan.scale).parts), claim.scale(plan.scale).seeds
            try:
                verdict = verify(claim, plan.scale, parts, seeds, RUNS)
                row["verdict"] = "; ".join(f"{part or 'across'}: {word}" for part, word in verdict.words.items())
                verdicts[name] = verdict
                text += f"\n## {name}\n\n{claim.scale(plan.scale).may_say}\n\n{render(verdict, 'markdown')}"
            except ValueError as error:
                row["verdict"] = f"none: {error}"
        rows.append(row)
    if verdicts:
        conclusions = [section(each) for each in by_claim(list(verdicts.values()))]
        text += "\n" + "\n\n".join(["# Conclusions", summary(list(verdicts.values())), *conclusions]) + "\n"
    found = {name: as_json(verdict) for name, verdict in verdicts.items()}
    book = {"schema": 1, "identity": {"scale": plan.scale}, "rates": swept, "rows": rows, "verdicts": found}
    folder.write(FILE, book)
    folder.write_table(TABLE, f"# Claims at the scale {plan.scale}\n\n{progress(rows)}{rates.table(swept)}{text}")


def progress(rows: Sequence[Mapping[str, Any]]) -> str:
    columns: dict[str, Cell] = {
        "claim": "claim", "runs": figure("runs"), "ended": figure("ended"), "diverged": figure("diverged"),
        "verdict so far": "verdict",
    }  # fmt: skip
    return markdown(columns, rows)
