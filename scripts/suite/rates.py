"""The learning rates of the claims' arms: for each arm as many short trials, whose best is the rate of its runs.

An arm's trials are scripts.tune's, of learning rates alone: quasi-random rates round the claim's own, half of T, the
seed 1000, which no claim reports. A learning rate is every key of the optimizer called lr or ..._lr whose value is a
number above 0. An arm whose rate decides little names other keys in its claim's file, `sweep: [optimizer.damping]`:
these have the ranges of configs/tuning.yaml, or where it has none, are tried round their own values. What has two keys,
Muon with AdamW's rate say, gets no more trials than the others: each trial draws both, so that four points have a plane
to cover where others' have a line. Arms that are the same but for the claim share their trials: AdamW is swept once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conventions.config_keys import flatten
from conventions.run_format import ENDED
from harness.config import config_hash
from judge.claims.claim import Claim
from judge.claims.planned import composed
from judge.records import Run, read_run
from judge.tuning.search import Range, Space, search_space
from judge.tuning.trials import SUFFIX
from scripts.study.sweep import RUNS
from scripts.study.training import Training
from scripts.study.tuner import SEED, Tuner
from scripts.suite.folder import Cell, figure, markdown
from scripts.suite.training import Job, updates_kept

KEY = "optimizer.lr"
TIMES = 4.0  # the range: a quarter of the claim's rate to four times of it; four trials are at .44, .89, 1.8 and 3.6
ABOUT = "The best of equally many trials: of learning rates alone, or of the keys that the claim's file names instead."
AT_AN_END = "at an end of what was tried"
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The trials of an arm in a part of a claim, and of all arms that are like it."""

    tuner: Tuner

    @staticmethod
    def of(claim: Claim, scale: str, part: str, arm: str, trials: int, word: str = "rates") -> "Sweep":
        """word: begins the name of its folder. Raises ValueError where a key that is to be swept is none."""
        values = {**composed(claim, scale, part, arm), "study": "rates", "seed": SEED}
        keys = claim.scale(scale).arms[arm].sweep
        values["study"] = f"{word}-{config_hash({**values, 'sweep': keys} if keys else values)[:8]}"
        optimizer = values["optimizer"]["name"]
        try:
            space = _space(optimizer, flatten(values), keys) if keys else _around(rates_of(values["optimizer"]))
        except ValueError as error:
            raise ValueError(f"{claim.path}: {scale}.arms.{arm}.sweep: {error}") from None
        return Sweep(Tuner(optimizer, values, [], space, trials, RUNS / f"{values['study']}{SUFFIX}" / optimizer))

    @property
    def name(self) -> str:
        return str(self.tuner.values["study"])

    def begin(self) -> None:
        """Write the ranges down, so that what is published tells of them, and of a best trial at an end."""
        self.tuner.begin()

    @property
    def about(self) -> str:
        """`its rates`, or which other keys."""
        keys = list(self.tuner.space)
        return "its rates" if keys == list(rates_of(self.tuner.values["optimizer"])) else shorts(keys)

    @cached_property
    def trials(self) -> list[Training]:
        return self.tuner.trials()

    def jobs(self, stage: int) -> list[Job]:
        """The trials that are left."""
        tokens = self.tuner.values["batch"]["tokens"]
        return [
            Job(self._job_name(each), self.name, stage, each.steps - updates_kept(each.folder), tokens, each.experiment)
            for each in self.trials
            if not each.ended
        ]

    def done(self) -> list[str]:
        """The names of the jobs that have ended."""
        return [self._job_name(each) for each in self.trials if each.ended]

    def runs(self) -> list[Run]:
        """The trials that have begun."""
        return [read_run(each.folder) for each in self.trials if (each.folder / "manifest.json").is_file()]

    def _job_name(self, trial: Training) -> str:
        return f"{self.name}-{trial.name}"

    def row(self, part: str, arm: str) -> Row | None:
        """What came of it; None while a trial is left. Where all diverged the claim's own rates stand."""
        runs = [run for run in self.runs() if run.status in ENDED]
        keys = list(self.tuner.space)
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


def _around(values: Mapping[str, float]) -> Space:
    return {key: Range(value / TIMES, value * TIMES) for key, value in values.items()}


def _space(optimizer: str, flat: Mapping[str, Any], keys: Sequence[str]) -> Space:
    """Of keys that a claim's file names."""
    for key in keys:
        if not key.startswith("optimizer.") or type(flat.get(key)) not in (int, float) or flat[key] <= 0:
            raise ValueError(f"{key} is {flat.get(key)}: name keys of the optimizer whose value is a number above 0")
    tuned = search_space(optimizer, flat)
    return {key: tuned.get(key) or _around({key: float(flat[key])})[key] for key in keys}


def put(
    scale: dict[str, Any], part: str, arm: str, rates: Mapping[str, float], trials: int, note: str,
    at_an_end: Sequence[str] = (),
) -> None:  # fmt: skip
    """Into a scale of a claim's file: an arm's rates in one of its parts, and where they come from.

    What the arm's note says after a semicolon is not about rates, and stays.
    """
    arms, recipe = scale["parts"][part].get("arms") or {name: {} for name in scale["arms"]}, scale["arms"][arm]
    scale["parts"][part]["arms"] = {**arms, arm: {**(arms[arm] or {}), **rates}}
    _, semicolon, rest = recipe.get("note", "").partition(";")
    where = f" ({part})" * (len(scale["parts"]) > 1)
    ends = [*recipe.get("at_an_end", []), *(f"{_short(key)}{where}" for key in at_an_end)]
    told = f", {' and '.join(ends)} {AT_AN_END}" * bool(ends)
    recipe |= {"trials": trials, "note": note + told + semicolon + rest}
    if ends:
        recipe["at_an_end"] = ends


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; empty where nothing was swept."""
    if not rows:
        return ""
    columns: dict[str, Cell] = {
        "optimizer": "optimizer", "first swept for": lambda row: f"{row['part']}, {row['arm']}", "trials": "trials",
        "updates of each": figure("updates"), "diverged": "diverged",
        "of": lambda row: shorts(row["rates"]),
        "loss by setting": lambda row: "; ".join(f"{_pair(e['rates'])}: {_shown(e['loss'])}" for e in row["losses"]),
        "setting of the runs": _chosen,
    }  # fmt: skip
    return f"\n## Learning rates\n\n{ABOUT}\n\n{markdown(columns, rows)}"


def _chosen(row: Mapping[str, Any]) -> str:
    """`0.01 and 0.002 (adamw_lr at an end of what was tried)`."""
    return _pair(row["rates"]) + f" ({shorts(row['at_an_end'])} {AT_AN_END})" * bool(row["at_an_end"])


def _pair(rates: Mapping[str, float]) -> str:
    return " and ".join(f"{rate:g}" for rate in rates.values())


def shorts(keys: Iterable[str]) -> str:
    """`lr and adamw_lr`."""
    return " and ".join(map(_short, keys))


def _short(key: str) -> str:
    return key.removeprefix("optimizer.")


def _shown(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"


def _at_an_end(best: Row, tried: Sequence[Row], key: str) -> bool:
    """Whether a better rate may lie beyond those that were tried."""
    rates = {each["rates"][key] for each in tried}
    return len(rates) > 1 and best["rates"][key] in (min(rates), max(rates))
