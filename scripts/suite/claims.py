"""bench_suite's part claims: the runs of several claims, in the order of their worth, as many as a call's time holds.

Runs are begun only where they are expected to end within the call, by the time that the same arm took before; the one
that is first in line is begun in any case, and goes on in the next call from its checkpoint.
"""

import math
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from harness.claims.claim import Claim
from harness.claims.claim_file import find_claim
from harness.claims.planned import Planned, planned, read_studies, sort_runs
from harness.claims.verdict import verify
from harness.records import Run
from scripts.pages.claim_table import as_json, render
from scripts.study.claim_cost import check_arms
from scripts.study.sweep import RUNS, command
from scripts.suite.folder import Cell, Deadline, Folder, figure, markdown

FILE, TABLE = "claims.json", "claims.md"
RESERVE = 15  # seconds that a call keeps for verdicts and tables
PATIENCE = 30  # seconds that a run has to end by itself once it is interrupted
MARGIN = 1.2  # on what a run is expected to take
ENDED = ("finished", "diverged")


@dataclass(frozen=True)
class Stage:
    """A claim, or some of its arms: the others come in a later stage."""

    title: str
    claim: str
    arms: tuple[str, ...] = ()  # none: all


STAGES = [
    Stage("AdamW's ladder", "sophia_2x", ("adamw",)),
    Stage("SOAP's 40 and 35 %", "soap_40_35"),
    Stage("Sophia's 2x, both presets", "sophia_2x"),
    Stage("Muon's 2x", "muon_2x"),
    Stage("SOAP beside Shampoo", "shampoo_20"),
    Stage("MKOR and K-FAC", "mkor"),
    Stage("AdaHessian", "adahessian_lm"),
]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        only: names of claims; none: all of STAGES.
        data: overrides that put another corpus in the place of the scale's own, data=... the first.
        rates: learning rates by optimizer, of an equal sweep, in the place of the scale's.
        overrides: where and how the runs are computed: keys that scripts.claims run takes.
        rehearsal: a few updates of one seed instead of the real ones, under a name of their own.
    """

    scale: str
    only: list[str]
    data: list[str]
    rates: dict[str, float]
    overrides: list[str]
    rehearsal: bool = False

    def stages(self) -> list[Stage]:
        return [stage for stage in STAGES if not self.only or stage.claim in self.only]

    def find(self, name: str, folder: Folder) -> Claim:
        """The claim, or what becomes of it on another corpus or at other rates: a file, written beside the results."""
        claim = find_claim(name)
        if not (self.data or self.rates or self.rehearsal):
            return claim
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(claim.path)))
        scale = values["scales"][self.scale]
        values["scales"] = {self.scale: scale}
        given = dict(pair.split("=", 1) for pair in self.data)
        if given:
            scale["config"] = {**(scale.get("config") or {}), **{key: yaml.safe_load(v) for key, v in given.items()}}
            scale["may_say"] = f"{scale['may_say'].strip()} On data={given['data']}, not on the corpus of the claim."
        for recipe in scale["arms"].values():
            config = recipe.get("config") or {}
            if config.get("optimizer") in self.rates:
                config["optimizer.lr"] = self.rates[config["optimizer"]]
                recipe["note"] = "the rate of an equal sweep"
                recipe.pop("trials", None)  # those of another rate
        if self.rehearsal:
            scale |= {"steps": 8, "seeds": scale["seeds"][:1], "may_say": "Nothing: this is a rehearsal."}
        word = "rehearsal" if self.rehearsal else given.get("data", "rates")
        path = folder.path / "claims" / f"{name}.{word}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(values, sort_keys=False, width=120)
        if not self.rehearsal and path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} was written for other --data, --rates or claim: move it away, or give the same")
        path.write_text(text, encoding="utf-8")
        return find_claim(str(path))


def check_data(data: Sequence[str]) -> list[str]:
    """Raises ValueError unless they choose a corpus, and nothing but what goes with it."""
    if wrong := next((each for each in data if "=" not in each), None):
        raise ValueError(f"--data {wrong}: give it as --data KEY=VALUE")
    keys = [each.partition("=")[0] for each in data]
    if keys and keys[0] != "data":
        raise ValueError("--data: the first must be data=NAME, a file of configs/data")
    for key in keys[1:]:
        if not key.startswith("data.") and key != "eval.tokens":
            raise ValueError(f"--data {key} is no key of a corpus: data.KEY or eval.tokens")
    return list(data)


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """As many runs as the time holds, then verdicts on what there is. How many runs are left."""
    claims = {stage.claim: plan.find(stage.claim, folder) for stage in plan.stages()}
    for claim in claims.values():
        check_arms(claim, plan.scale, list(claim.scale(plan.scale).parts))
    begun = False
    while deadline.left > RESERVE:
        todo, took = _line(plan, claims)
        chosen = choose(todo, took, deadline.left - RESERVE, begun)
        if not chosen:
            break
        say(f"{len(todo)} runs to do; now {', '.join(f'{job.claim.name} {job.name}' for job in chosen)}")
        if not sweep(chosen, plan.overrides, deadline):
            break
        begun = True
    keep(plan, claims, folder)
    return len(_line(plan, claims)[0])


def choose(
    todo: Sequence[Planned], took: Mapping[tuple[Any, ...], float], seconds: float, begun: bool
) -> list[Planned]:
    """The runs that go into one sweep: those first in line that fit, or one alone whose time nobody knows."""
    chosen: list[Planned] = []
    for job in todo:
        expected = MARGIN * job.steps * took.get(_kind(job), math.inf)
        if expected > seconds:
            unknown = math.isinf(expected)
            return chosen or ([job] if unknown or not begun else [])
        chosen.append(job)
        seconds -= expected
    return chosen


def sweep(jobs: Sequence[Planned], overrides: Sequence[str], deadline: Deadline) -> bool:
    """Train them, one after another in one process, until they end or the time does; False where it did, or Ctrl-C."""
    named = {f"{job.claim.name}-{job.name}": job.experiment() for job in jobs}
    line, place = command(named, RUNS / "suite", overrides)
    process = subprocess.Popen(line, preexec_fn=_heed_interrupts)
    try:
        code = process.wait(max(1.0, deadline.left - RESERVE))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    if code:
        raise ValueError(f"a run did not end (code {code}): {place / 'jobs.jsonl'} says why; the same command goes on")
    return True


def _heed_interrupts() -> None:
    """What is started in the background is deaf to SIGINT, and so would be every run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _runs(plan: Plan, claim: Claim) -> dict[Planned, Run | None]:
    """Every planned run of a claim, with what is there of it."""
    scale = claim.scale(plan.scale)
    found: dict[tuple[Any, ...], Run] = {}
    for part, runs in read_studies(claim, plan.scale, list(scale.parts), RUNS).items():
        for name, arm in sort_runs(claim, plan.scale, part, scale.seeds, runs)[0].items():
            for each in arm.runs:
                key = (part, name, each.steps, each.seed)
                if key not in found or found[key].status not in ENDED:
                    found[key] = each
    jobs = planned(claim, plan.scale, list(scale.parts), scale.seeds)
    return {job: found.get((job.part, job.arm, job.steps, job.seed)) for job in jobs}


def _line(plan: Plan, claims: Mapping[str, Claim]) -> tuple[list[Planned], dict[tuple[Any, ...], float]]:
    """What is left, in order, seed by seed within a stage; and by kind of run the seconds per update of what ended."""
    runs = {name: _runs(plan, claim) for name, claim in claims.items()}
    took: dict[tuple[Any, ...], float] = {}
    for found in runs.values():
        for job, each in found.items():
            if each and each.status == "finished" and not each.manifest["resumes"]:
                seconds = [datetime.fromisoformat(each.manifest[key]).timestamp() for key in ("started", "ended")]
                took[_kind(job)] = max(took.get(_kind(job), 0.0), (seconds[1] - seconds[0]) / job.steps)
    todo: dict[tuple[Any, ...], Planned] = {}
    for stage in plan.stages():
        left = [job for job, each in runs[stage.claim].items() if not (each and each.status in (*ENDED, "running"))]
        for job in sorted(left, key=lambda job: job.seed):
            if not stage.arms or job.arm in stage.arms:
                todo.setdefault((stage.claim, job.name), job)
    return list(todo.values()), took


def _kind(job: Planned) -> tuple[Any, ...]:
    """Runs that take as long per update."""
    return job.claim.name, job.part, job.arm


def keep(plan: Plan, claims: Mapping[str, Claim], folder: Folder) -> None:
    """How far each claim is, and its verdict so far."""
    rows, verdicts, text = [], {}, ""
    for name, claim in claims.items():
        runs = _runs(plan, claim)
        status = [each.status if each else None for each in runs.values()]
        row = {"claim": name, "file": str(claim.path), "runs": len(runs), "diverged": status.count("diverged"),
               "ended": sum(each in ENDED for each in status), "verdict": None}  # fmt: skip
        if row["ended"]:
            parts, seeds = list(claim.scale(plan.scale).parts), claim.scale(plan.scale).seeds
            try:
                verdict = verify(claim, plan.scale, parts, seeds, RUNS)
                row["verdict"] = "; ".join(f"{part or 'across'}: {word}" for part, word in verdict.words.items())
                verdicts[name] = as_json(verdict)
                text += f"\n## {name}\n\n{claim.scale(plan.scale).may_say}\n\n{render(verdict, 'markdown')}"
            except ValueError as error:
                row["verdict"] = f"none: {error}"
        rows.append(row)
    folder.write(FILE, {"schema": 1, "scale": plan.scale, "rows": rows, "verdicts": verdicts})
    folder.write_table(TABLE, f"# Claims at the scale {plan.scale}\n\n{progress(rows)}{text}")


def progress(rows: Sequence[Mapping[str, Any]]) -> str:
    columns: dict[str, Cell] = {
        "claim": "claim", "runs": figure("runs"), "ended": figure("ended"), "diverged": figure("diverged"),
        "verdict so far": "verdict",
    }  # fmt: skip
    return markdown(columns, rows)
