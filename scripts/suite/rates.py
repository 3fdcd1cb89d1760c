"""The learning rates of the claims' arms: for each arm as many short trials, whose best is the rate of its runs.

An arm's trials are scripts.tune's, of the learning rate alone: quasi-random rates round the claim's own, half of T, the
seed 1000, which no claim reports. Arms that are the same but for the claim share theirs: AdamW is swept once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.claims.claim import Claim
from harness.claims.planned import composed
from harness.compare.arms import flatten
from harness.config import config_hash
from harness.records import Run, read_run
from harness.tuning.search import Range
from harness.tuning.trials import SUFFIX
from scripts.study.sweep import RUNS
from scripts.study.training import Training
from scripts.study.tuner import SEED, Tuner
from scripts.suite.folder import Cell, figure, markdown
from scripts.suite.training import Job

KEY = "optimizer.lr"
TIMES = 4.0  # from a quarter of the claim's rate to four times of it; four trials are a factor of two apart or so
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The trials of an arm in a part of a claim, and of all arms that are like it."""

    tuner: Tuner

    @staticmethod
    def of(claim: Claim, scale: str, part: str, arm: str, trials: int) -> "Sweep":
        values = {**composed(claim, scale, part, arm), "study": "rates", "seed": SEED}
        values["study"] = f"rates-{config_hash(values)[:8]}"
        rate, optimizer = values["optimizer"]["lr"], values["optimizer"]["name"]
        space = {KEY: Range(rate / TIMES, rate * TIMES)}
        return Sweep(Tuner(optimizer, values, [], space, trials, RUNS / f"{values['study']}{SUFFIX}" / optimizer))

    @property
    def name(self) -> str:
        return str(self.tuner.values["study"])

    @cached_property
    def trials(self) -> list[Training]:
        return self.tuner.trials()

    def jobs(self) -> list[Job]:
        """The trials that are left."""
        left = [each for each in self.trials if not each.ended]
        return [Job(f"{self.name}-{each.name}", self.name, each.steps, each.experiment) for each in left]

    def runs(self) -> list[Run]:
        """The trials that have ended."""
        return [read_run(each.folder) for each in self.trials if each.ended]

    def row(self, part: str, arm: str) -> Row | None:
        """What came of it; None while a trial is left. Where all diverged the claim's own rate stands."""
        runs = self.runs()
        if len(runs) < len(self.trials):
            return None
        losses = {float(flatten(run.config)[KEY]): run.final_loss for run in runs}
        finished = {rate: loss for rate, loss in losses.items() if loss is not None}
        best = min(finished, key=finished.__getitem__, default=None)
        return {
            "sweep": self.name, "optimizer": self.tuner.optimizer, "arm": arm, "part": part, "trials": len(runs),
            "updates": self.tuner.steps // 2, "diverged": len(runs) - len(finished),
            "losses": {f"{rate:g}": losses[rate] for rate in sorted(losses)},
            "rate": self.tuner.flat[KEY] if best is None else best, "loss": finished.get(best) if best else None,
            "at_an_end": len(losses) > 1 and best in (min(losses), max(losses)),
        }  # fmt: skip


def put(scale: dict[str, Any], part: str, arm: str, rate: float, trials: int, note: str) -> None:
    """Into a scale of a claim's file: an arm's rate in one of its parts, and where it comes from."""
    arms = scale["parts"][part].get("arms") or {name: {} for name in scale["arms"]}
    scale["parts"][part]["arms"] = {**arms, arm: {**(arms[arm] or {}), KEY: rate}}
    scale["arms"][arm] |= {"trials": trials, "note": note}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; empty where nothing was swept."""
    if not rows:
        return ""
    columns: dict[str, Cell] = {
        "optimizer": "optimizer", "first swept for": lambda row: f"{row['part']}, {row['arm']}", "trials": "trials",
        "updates of each": figure("updates"), "diverged": "diverged",
        "loss by rate": lambda row: ", ".join(f"{rate}: {_shown(loss)}" for rate, loss in row["losses"].items()),
        "rate of the runs": lambda row: f"{row['rate']:g}" + " (at an end)" * row["at_an_end"],
    }  # fmt: skip
    return f"\n## Learning rates\n\nThe best of equally many trials, of the rate alone.\n\n{markdown(columns, rows)}"


def _shown(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
