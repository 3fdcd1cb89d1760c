"""bench_suite's part claims: the runs of several claims, in the order of their worth, as many as a call's time holds.

Before a stage's runs come the trials of its arms' learning rates. Runs are begun where they are expected to end within
the call (see pace.py); where none is, the first in line goes on in the next call from its checkpoint. What failed at
this commit, and all of its kind, comes last in every call; nothing waits for it.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from conventions.run_format import ENDED
from judge.claims.claim_file import find_claim
from judge.claims.planned import Planned, composed
from judge.records import Run, read_run
from scripts.publish import copy_run
from scripts.study.claim_cost import check_arms
from scripts.study.sweep import RUNS
from scripts.suite.claim_book import Runs, commit, conclude, keep, read, runs_of
from scripts.suite.claim_plan import Found, Plan
from scripts.suite.corpus import prepare, refuse_others, within
from scripts.suite.folder import Deadline, Folder
from scripts.suite.pace import Pace, note_starts
from scripts.suite.training import Job, attempt, updates_kept

RESERVE = 15  # seconds that a call keeps for verdicts and tables
TRIALS = 4  # of each arm's learning rate
MOST = 10  # runs in one sweep: their weights and optimizers' state are on the disk until it ends
CHECKPOINT = 250  # updates between checkpoints, at most: a run that takes longer than a call must get on in each


@dataclass(frozen=True)
class Line:
    """What is left.

    Attributes:
        runs: of each claim, what is there of its planned runs.
        ready: those that can begin, in order; a stage's own wait for the rates of its arms, the next stage for it.
        left: how many there are, with those that wait.
        there: all runs and trials that have begun.
        ended: by folder the kind and the run of what ended.
        ours: the folders among them that are in studies of this part's own.
    """

    claims: dict[str, Found]
    runs: Runs
    ready: list[Job]
    left: int
    pace: Pace
    there: list[Run]
    ended: dict[Path, tuple[str, Run]]
    ours: list[Path]


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """As many runs as the time holds, then verdicts on what there is. How many runs are left."""
    book = read(plan, folder)
    find = partial(_line, plan, folder, book)
    line = find()
    if line.left and not _ready(plan, folder, line, deadline):
        say("the corpus is not prepared yet: the same command goes on with it")
        conclude(plan, line.claims, line.runs, book, folder)
        return line.left
    for found in line.claims.values():
        found.write()
    _drop_weights(line.ours)
    overrides = [*plan.overrides, *_checkpoints(plan, line.claims)]
    begun, tried = False, set[str]()
    while deadline.left > RESERVE:
        ready = [job for job in line.ready if job.name not in tried]
        broken = {row["kind"] for row in book["failed"]}
        sound = [job for job in ready if job.kind not in broken]
        chosen = choose(sound or ready, line.pace, deadline.left - RESERVE, begun)
        if not chosen:
            break
        say(f"{line.left} runs to do; now {len(chosen)} of them, {chosen[0].name} first")
        kinds = {job.kind for job in chosen}
        for sweep in (each for found in line.claims.values() for each in found.sweeps.values() if each.name in kinds):
            sweep.begin()
        since = time.time()
        experiments = {job.name: job.experiment() for job in chosen}
        whole, failed, _ = attempt(experiments, overrides, deadline.left - RESERVE)
        for name, error in failed.items():
            say(f"{name} failed, and is left to the end: {error}")
            kind = next(job.kind for job in chosen if job.name == name)
            row = {"name": name, "kind": kind, "error": error, "commit": commit(folder)}
            book["failed"] = [*(each for each in book["failed"] if each["name"] != name), row]
        tried |= failed.keys()
        before, line, begun = line.ended, find(), True
        for found in line.claims.values():
            found.write()
        new = {place: pair for place, pair in line.ended.items() if place not in before}
        note_starts(book["starts"], list(new.values()), since)
        _drop_weights(new)
        keep(plan, line.claims, line.runs, book, folder)
        if not whole:
            break
    conclude(plan, line.claims, line.runs, book, folder)
    return line.left


def _ready(plan: Plan, folder: Folder, line: Line, deadline: Deadline) -> bool:
    """All that can be wrong before a run begins. False where the time was over before the corpus was there.

    Raises ValueError for an arm that cannot be built, a corpus that is not there or too small, and runs that do not
    belong with those to come.
    """
    for name, found in line.claims.items():
        claim = replace(found.claim, path=find_claim(name).path)  # its own is not written yet
        check_arms(claim, plan.scale, list(claim.scale(plan.scale).parts))
    device = folder.call.device.get("name") if folder.call else None
    refuse_others(line.there, {}, device)
    try:
        with within(deadline.left - RESERVE):
            claims = [found.claim for found in line.claims.values()]
            fingerprints = prepare(claims, plan.scale, plan.data, plan.overrides)
    except KeyboardInterrupt:
        if deadline.left > RESERVE + 1:
            raise  # a person's
        return False
    refuse_others(line.there, fingerprints, device)
    return True


def choose(todo: Sequence[Job], pace: Pace, seconds: float, begun: bool) -> list[Job]:
    """The runs that go into one sweep: those that fit, in their order.

    Where one does not, later ones of its stage may, and none of the next stage. Where none does, the first that gets
    as far as a checkpoint; or the first, where nobody knows how long it takes, or the call has begun nothing yet.
    """
    chosen: list[Job] = []
    stage, left = None, seconds
    for job in todo:
        if len(chosen) == MOST or (stage is not None and job.stage != stage):
            break
        expected = pace.seconds(job, all(job.kind != each.kind for each in chosen))
        if expected <= left:
            chosen.append(job)
            left -= expected
        else:
            stage = job.stage
    if chosen or not todo:
        return chosen
    for job in (job for job in todo if job.stage == todo[0].stage):
        if not pace.knows(job) or pace.seconds(job, True, CHECKPOINT) <= seconds:
            return [job]
    return [] if begun else [todo[0]]


def _line(plan: Plan, folder: Folder, book: dict[str, Any]) -> Line:
    claims = {stage.claim: plan.find(stage.claim, folder, book["rates"]) for stage in plan.stages()}
    runs = {name: runs_of(plan, found.claim) for name, found in claims.items()}
    _share(claims, runs)
    there: dict[Path, tuple[str, Run]] = {}
    ours: set[Path] = set()
    done: set[str] = set()
    for name, found in claims.items():
        mine = [(found.kind(job.part, job.arm), each) for job, each in runs[name].items() if each]
        trials = [(sweep.name, each) for sweep in found.sweeps.values() for each in sweep.runs()]
        there |= {each.folder: (kind, each) for kind, each in (*mine, *trials)}
        ours |= {each.folder for _, each in ((*mine, *trials) if found.ours else trials)}
        done |= {_name(job) for job, each in runs[name].items() if each and each.status in ENDED}
        done |= {trial for sweep in found.sweeps.values() for trial in sweep.done()}
    ended = {place: pair for place, pair in there.items() if pair[1].status in ENDED}
    book["failed"] = [row for row in book["failed"] if row["name"] not in done]
    ready, left = _order(plan, claims, runs, {row["kind"] for row in book["failed"]})
    pace = Pace.of(there.values(), book["starts"])
    everything = [run for _, run in there.values()]
    return Line(claims, runs, ready, left, pace, everything, ended, [place for place in ended if place in ours])


def _order(plan: Plan, claims: Mapping[str, Found], runs: Runs, broken: set[str]) -> tuple[list[Job], int]:
    """What can begin, and how much is left. broken: kinds whose trials nothing waits for."""
    ready: dict[str, Job] = {}
    left: set[str] = set()
    blocked = False
    for number, stage in enumerate(plan.stages()):
        found = claims[stage.claim]
        here = [(j, each) for j, each in runs[stage.claim].items() if not stage.arms or j.arm in stage.arms]
        waiting = {(j.part, j.arm): found.kind(j.part, j.arm) for j, _ in here if found.waits(j.part, j.arm)}
        trials = [job for place in waiting for job in found.sweeps[place].jobs(number)]
        todo = [(j, each) for j, each in here if not (each and each.status in (*ENDED, "running"))]
        jobs = {j: _job(found, j, each, number) for j, each in sorted(todo, key=lambda pair: pair[0].seed)}
        waits = set(waiting.values()) - broken
        if not blocked:
            now = trials if waits else [job for j, job in jobs.items() if (j.part, j.arm) not in waiting]
            now = [*now, *(trial for trial in trials if trial.kind in broken)]
            ready |= {job.name: job for job in now if job.name not in left}
        blocked |= bool(waits)
        left |= {job.name for job in (*trials, *jobs.values())}
    return list(ready.values()), len(left)


def _job(found: Found, planned: Planned, run: Run | None, stage: int) -> Job:
    tokens = composed(found.claim, planned.scale, planned.part, planned.arm)["batch"]["tokens"]
    left = planned.steps - (updates_kept(run.folder) if run else 0)
    kind = found.kind(planned.part, planned.arm)
    return Job(_name(planned), kind, stage, left, tokens, planned.experiment)


def _name(planned: Planned) -> str:
    return f"{planned.claim.name}-{planned.name}"


def _share(claims: Mapping[str, Found], runs: dict[str, dict[Planned, Run | None]]) -> None:
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


def _drop_weights(folders: Iterable[Path]) -> None:
    """Of runs that ended: a verdict needs none of it, and one stage of SOAP's would fill 50 GB."""
    for folder in folders:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _checkpoints(plan: Plan, claims: Mapping[str, Found]) -> list[str]:
    """The override that has every run checkpointed often enough, unless the command line says how often."""
    if any(each.startswith("checkpoint.every=") for each in plan.overrides):
        return []
    scales = [(found.claim, found.claim.scale(plan.scale)) for found in claims.values()]
    configs = [composed(claim, plan.scale, part, arm) for claim, scale in scales for part in scale.parts
               for arm in scale.arms_of(part)]  # fmt: skip
    return [f"checkpoint.every={min(CHECKPOINT, *(each['checkpoint']['every'] or CHECKPOINT for each in configs))}"]
