"""The trials that an optimizer was tuned on, read back from folders: their number, their cost, and the chosen one.

for optimizer, tuning in tuning_of("results/runs/my_study").items():
    print(optimizer, len(tuning.trials), tuning.diverged, tuning.best.settings, tuning.loss, tuning.flops)

The trials of results/runs/my_study are in results/runs/my_study-tuning/<optimizer>/, put there by scripts.tune. Every
run that is there and made a step counts as a trial, so that no range can be widened, no seed be tried, and no trial be
stopped short, in silence.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from conventions import atomic
from conventions.config_keys import flatten, plain
from conventions.keywords import construct
from conventions.run_format import ENDED
from conventions.yaml_file import read_yaml, yaml_text
from judge.comparison import Comparison
from judge.correction import fair
from judge.fairness import UNEQUAL_TUNING, unlike
from judge.oddities import word
from judge.records import Run, find_runs
from judge.tuning.luck import beside
from judge.tuning.search import EDGE, Range, Space, value_of

SUFFIX = "-tuning"  # of the folder beside the study's
SEARCH, CHOICE = "tuning.yaml", "tuned.yaml"  # written before the first trial, and after the last


@dataclass(frozen=True)
class Trial:
    """One run of a tuning."""

    name: str
    settings: dict[str, float]  # of the keys that were searched
    steps: int
    seed: int
    loss: float | None  # final validation loss in nats per token; None unless it finished
    status: str
    flops: float | None
    made: int  # updates, so far

    @property
    def counts(self) -> bool:
        """Return whether the trial counts: it ended, or it made at least one step."""
        return self.status in ENDED or self.made > 0


@dataclass(frozen=True)
class Tuning:
    """Every run that one optimizer was tuned on."""

    optimizer: str  # its registered name, or its class path
    folder: Path
    space: Space  # as last searched
    steps: int  # T: trials are of half of it
    runs: list[Trial]  # all that are there, also those that never made a step

    @cached_property
    def trials(self) -> list[Trial]:
        """Return the runs of less than T, in the order of their loss; those without a loss come last."""
        return _ranked(run for run in self.runs if run.steps != self.steps)

    @cached_property
    def again(self) -> list[Trial]:
        """Return the best and its neighbours, run again at T."""
        return _ranked(run for run in self.runs if run.steps == self.steps)

    @property
    def best(self) -> Trial | None:
        """Return the lowest loss at T, or as long as there is none among the trials."""
        return next((run for run in [*self.again, *self.trials] if run.loss is not None), None)

    @property
    def loss(self) -> float | None:
        return self.best.loss if self.best else None

    @property
    def diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.runs)

    @property
    def flops(self) -> float | None:
        """Return the FLOPs of all runs together; None where one of them does not know its own."""
        counted = [run.flops for run in self.runs if run.counts]
        return None if None in counted else float(sum(flops for flops in counted if flops is not None))

    def json(self) -> dict[str, Any]:
        """Return the tuning's size and cost, the chosen settings, and the sentences on ends of ranges."""
        best = self.best
        return {
            **{"trials": len(self.trials), "again": len(self.again), "diverged": self.diverged},
            **{"settings": best.settings if best else None, "loss": self.loss},
            **{"flops": self.flops, "edges": self.edges},
        }

    @property
    def unended(self) -> str:
        """Return a sentence on the trials that were cut off, failed or still run; empty if all ended."""
        counted = [run for run in self.runs if run.counts]
        states = Counter(word(run.status) for run in counted if run.status not in ENDED)
        listed = ", ".join(f"{count} {state}" for state, count in states.items())
        return (
            f"{states.total()} of the {len(counted)} runs that {self.optimizer} was tuned on did not end ({listed}): "
            "they count all the same"
            if states
            else ""
        )

    @property
    def seeds(self) -> set[int]:
        return {run.seed for run in self.runs}

    @property
    def edges(self) -> list[str]:
        """Return a sentence on each key whose best value lies at an end of its range: a better one may lie beyond."""
        sentences = []
        for key, each in self.space.items():
            value = self.best.settings.get(key) if self.best else None
            share = 0.5 if value is None else each.share(value)
            if value is None or EDGE < share < 1 - EDGE:
                continue
            wider, end = each.wider(upwards=share > 0.5), "upper" if share > 0.5 else "lower"
            sentences.append(
                f"the best {key} of {self.optimizer}, {plain(value)}, lies at the {end} end of its range, "
                f"{plain(each.low)} to {plain(each.high)}: "
                f"range.{key}=[{plain(wider.low)},{plain(wider.high)}] widens it"
            )
        return sentences


def tuning_folder(study: str | Path) -> Path:
    """Return the folder of a study's trials, which lies beside the study."""
    study = Path(study)
    return study if study.name.endswith(SUFFIX) else study.with_name(study.name + SUFFIX)


def tuning_of(study: str | Path) -> dict[str, Tuning]:
    """Return the tuning of each optimizer of a study, by the name that runs give it; empty if none was tuned.

    study: the folder of the reported runs, or that of the trials. Raises ValueError where a file is broken.
    """
    folder = tuning_folder(study)
    if not folder.is_dir() or not any(folder.rglob("manifest.json")):
        return {}
    by_optimizer: dict[str, list[Run]] = {}
    for run in find_runs(folder):
        by_optimizer.setdefault(run.optimizer, []).append(run)
    return {optimizer: _tuning(runs, folder / optimizer) for optimizer, runs in by_optimizer.items()}


def unequal(tunings: Mapping[str, Tuning], baseline: str, optimizers: Sequence[str]) -> list[str]:
    """Return a sentence on each optimizer that was not tuned as the baseline was.

    On more trials, fewer, or longer ones; or over another range of what is not the optimizer's own, the warm-up say.
    """
    if not tunings:
        return []
    base, sentences = tunings.get(baseline), []
    theirs = _effort(base)
    for optimizer in optimizers:
        own = tunings.get(optimizer)
        if optimizer != baseline and (ours := _effort(own)) != theirs:
            sentences.append(f"{UNEQUAL_TUNING}{optimizer} got {_effort_text(ours)}, {baseline} {_effort_text(theirs)}")
        if own and base and own.space and base.space:  # without its plan nobody knows what was searched
            sentences += _unlike(own, base)
    return sentences


def with_tuning(comparison: Comparison, tunings: Mapping[str, Tuning]) -> Comparison:
    """Return the comparison, with what has to be known about how its optimizers were tuned.

    A key that was searched for both may differ: that turns from a warning into a footnote. Unequal tuning, seeds that
    were both tuned on and reported, and optima at the end of a range are warnings.
    """
    if not tunings:
        return comparison
    base, *newcomers = comparison.standings
    meant: dict[str, str] = {}  # the sentence that is a warning now: what it becomes
    for each in newcomers:
        both = (tunings[name].space if name in tunings else {} for name in (base.optimizer, each.optimizer))
        searched = set.intersection(*({key.partition("[")[0] for key in space} for space in both))
        for key, (theirs, ours) in unlike(base.arm, each.arm, comparison.length).items():
            if key in searched:
                was = f"{key} differs: {theirs} for {base.arm.label}, {ours} for {each.arm.label}"
                meant[was] = f"{key} was tuned for each: {theirs} for {base.arm.label}, {ours} for {each.arm.label}"
    names = [each.optimizer for each in comparison.standings]
    warnings = unequal(tunings, comparison.baseline, names)
    reported = {run.seed for each in comparison.standings for run in each.arm.runs}
    for name in names:
        if name in tunings and (seeds := tunings[name].seeds & reported):
            warnings.append(f"{name} was tuned on a seed that is reported: {', '.join(map(str, sorted(seeds)))}")
        warnings += tunings[name].edges if name in tunings else []
    kept = [warning for warning in comparison.warnings if warning not in meant]
    notes = [meant[warning] for warning in comparison.warnings if warning in meant]
    notes += [tunings[name].unended for name in names if name in tunings and tunings[name].unended]
    losses = {name: [trial.loss for trial in tuning.trials] for name, tuning in tunings.items()}
    for each in newcomers:
        pair = losses.get(each.optimizer, []), losses.get(base.optimizer, [])
        notes += filter(None, [beside(*pair, base.arm, comparison.length, each.arm.label)])
    counts = {name: len(tunings[name].trials) if name in tunings else 0 for name in names}
    rows = [
        row if row.rule == "target" else fair(row, counts[row.optimizer], counts[base.optimizer], "trials")
        for row in comparison.rows
    ]
    return replace(comparison, rows=rows, warnings=[*warnings, *kept], footnotes=[*notes, *comparison.footnotes])


def write_plan(folder: Path, optimizer: str, steps: int, space: Space) -> None:
    """Write, before the first trial, T and the ranges, without which nobody could see an optimum at their end."""
    ranges = {key: {"scale": each.scale, "low": each.low, "high": each.high} for key, each in space.items()}
    atomic.write_text(folder / SEARCH, yaml_text({"optimizer": optimizer, "steps": steps, "ranges": ranges}))


def write_choice(tuning: Tuning, overrides: Sequence[str]) -> Path:
    """Write, after the last trial, the overrides that train.py takes, and what they were chosen from."""
    assert tuning.best is not None
    about = {
        "overrides": list(overrides),
        **{"loss": tuning.best.loss, "run": tuning.best.name, "updates": tuning.best.steps, "seed": tuning.best.seed},
        **{"trials": len(tuning.trials), "again": len(tuning.again), "diverged": tuning.diverged},
        **{"flops": tuning.flops, "edges": tuning.edges},
    }
    atomic.write_text(tuning.folder / CHOICE, yaml_text(about))
    return tuning.folder / CHOICE


def _tuning(runs: Sequence[Run], folder: Path) -> Tuning:
    plan = _plan(folder / SEARCH)
    space: Space = {
        key: construct(Range, entry, f"{folder / SEARCH}: ranges.{key}")
        for key, entry in plan.get("ranges", {}).items()
    }
    lengths = {run.steps for run in runs}
    steps = plan.get("steps") or (max(lengths) if len(lengths) > 1 else 2 * max(lengths))
    configs = {run.folder: flatten(run.config) for run in runs}
    keys = list(space) or _differing(list(configs.values()))
    trials = [
        Trial(run.name, {key: value for key in keys if (value := value_of(configs[run.folder], key)) is not None},
              run.steps, run.seed, run.final_loss, run.status, run.last("flops/total"), run.step)
        for run in runs
    ]  # fmt: skip
    return Tuning(runs[0].optimizer, folder, space, steps, trials)


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that trials without a plan varied: the optimizer's and schedule's numbers that differ."""
    keys = [key for key in configs[0] if key.startswith(("optimizer.", "schedule."))]
    first = configs[0]
    return [k for k in keys if isinstance(first[k], int | float) and any(c.get(k) != first[k] for c in configs)]


def _plan(path: Path) -> dict[str, Any]:
    remedy = "restore it, or delete it and give scripts.tune the same command again"
    plan = read_yaml(path, remedy) if path.exists() else {}
    if not isinstance(plan.get("ranges", {}), dict):
        raise ValueError(f"{path} is broken (ranges holds no keys): {remedy}")
    return plan


def _ranked(runs: Iterator[Trial]) -> list[Trial]:
    return sorted((run for run in runs if run.counts), key=lambda run: (run.loss is None, run.loss, run.name))


def _effort(tuning: Tuning | None) -> tuple[tuple[int, int], ...]:
    """Return ((updates, how many runs), ...) of a tuning."""
    counted = [] if tuning is None else [*tuning.trials, *tuning.again]
    return tuple(sorted(Counter(run.steps for run in counted).items()))


def _effort_text(effort: tuple[tuple[int, int], ...]) -> str:
    return " and ".join(f"{count} trials of {steps:,} updates" for steps, count in effort) or "none"


def _unlike(own: Tuning, base: Tuning) -> Iterator[str]:
    """Yield sentences on what is not the optimizer's own, and was searched in two ranges."""
    for key in {**base.space, **own.space}:
        ours, theirs = _reach(own.space.get(key)), _reach(base.space.get(key))
        if not key.startswith("optimizer.") and ours != theirs:
            yield f"{UNEQUAL_TUNING}{key} of {own.optimizer} was searched {ours}, of {base.optimizer} {theirs}"


def _reach(each: Range | None) -> str:
    return f"from {plain(each.low)} to {plain(each.high)}" if each else "not at all"
