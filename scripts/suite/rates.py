"""The learning rates of the claims' arms: for each arm as many short trials, whose best is the rate of its runs.

An arm's trials are scripts.tune's, of learning rates alone: quasi-random rates round the claim's own, half of T, the
seed 1000, which no claim reports. A learning rate is every key of the optimizer called lr or ..._lr whose value is a
number above 0. What has two of them, Muon with AdamW's say, gets no more trials than the others: each trial draws both,
so that four points have a plane to cover where others' have a line. Arms that are the same but for the claim share
their trials: AdamW is swept once.
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
TIMES = 4.0  # the range: a quarter of the claim's rate to four times of it; four trials are at .44, .89, 1.8 and 3.6
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The trials of an arm in a part of a claim, and of all arms that are like it."""

    tuner: Tuner

    @staticmethod
    def of(claim: Claim, scale: str, part: str, arm: str, trials: int) -> "Sweep":
        values = {**composed(claim, scale, part, arm), "study": "rates", "seed": SEED}
        values["study"] = f"rates-{config_hash(values)[:8]}"
        optimizer = values["optimizer"]["name"]
        space = {key: Range(rate / TIMES, rate * TIMES) for key, rate in rates_of(values["optimizer"]).items()}
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
        """What came of it; None while a trial is left. Where all diverged the claim's own rates stand."""
        runs, keys = self.runs(), list(self.tuner.space)
        if len(runs) < len(self.trials):
            return None
        tried: list[Row] = []
        for run in runs:
            flat = flatten(run.config)
            tried.append({"rates": {key: float(flat[key]) for key in keys}, "loss": run.final_loss})
        finished = [each for each in tried if each["loss"] is not None]
        best = min(finished, key=lambda each: each["loss"], default=None)
        return {
            "sweep": self.name, "optimizer": self.tuner.optimizer, "arm": arm, "part": part, "trials": len(runs),
            "updates": self.tuner.steps // 2, "diverged": len(runs) - len(finished),
            "losses": sorted(tried, key=lambda each: list(each["rates"].values())),
            "rates": best["rates"] if best else {key: float(self.tuner.flat[key]) for key in keys},
            "loss": best["loss"] if best else None,
            "at_an_end": [key for key in keys if best and _at_an_end(best, tried, key)],
        }  # fmt: skip


def rates_of(optimizer: Mapping[str, Any]) -> dict[str, float]:
    """The learning rates in an optimizer's section of the config, by dotted key; `lr` the first."""
    rates = {
        f"optimizer.{key}": float(value)
        for key, value in optimizer.items()
        if (key == "lr" or key.endswith("_lr")) and type(value) in (int, float) and value > 0
    }
    return dict(sorted(rates.items(), key=lambda pair: pair[0] != KEY))


def put(scale: dict[str, Any], part: str, arm: str, rates: Mapping[str, float], trials: int, note: str) -> None:
    """Into a scale of a claim's file: an arm's rates in one of its parts, and where they come from.

    What the arm's note says after a semicolon is not about rates, and stays.
    """
    arms = scale["parts"][part].get("arms") or {name: {} for name in scale["arms"]}
    scale["parts"][part]["arms"] = {**arms, arm: {**(arms[arm] or {}), **rates}}
    _, semicolon, rest = scale["arms"][arm].get("note", "").partition(";")
    scale["arms"][arm] |= {"trials": trials, "note": note + semicolon + rest}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; empty where nothing was swept."""
    if not rows:
        return ""
    columns: dict[str, Cell] = {
        "optimizer": "optimizer", "first swept for": lambda row: f"{row['part']}, {row['arm']}", "trials": "trials",
        "updates of each": figure("updates"), "diverged": "diverged",
        "rates": lambda row: " and ".join(_short(key) for key in row["rates"]),
        "loss by rates": lambda row: "; ".join(f"{_pair(e['rates'])}: {_shown(e['loss'])}" for e in row["losses"]),
        "rates of the runs": _chosen,
    }  # fmt: skip
    return f"\n## Learning rates\n\nThe best of equally many trials, of rates alone.\n\n{markdown(columns, rows)}"


def _chosen(row: Mapping[str, Any]) -> str:
    """`0.01 and 0.002 (adamw_lr at an end)`."""
    ends = [_short(key) for key in row["at_an_end"]]
    return _pair(row["rates"]) + f" ({' and '.join(ends)} at an end)" * bool(ends)


def _pair(rates: Mapping[str, float]) -> str:
    return " and ".join(f"{rate:g}" for rate in rates.values())


def _short(key: str) -> str:
    return key.removeprefix("optimizer.")


def _shown(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"


def _at_an_end(best: Row, tried: Sequence[Row], key: str) -> bool:
    """Whether a better rate may lie beyond those that were tried."""
    rates = {each["rates"][key] for each in tried}
    return len(rates) > 1 and best["rates"][key] in (min(rates), max(rates))
