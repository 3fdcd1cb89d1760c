"""Everything that a verdict runs: the trials of a newcomer and of the baseline, then the runs that are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.keywords import construct
from conventions.planned_run import PlannedRun
from conventions.run_format import RUNS
from conventions.sentence import nearest
from conventions.yaml_file import read_yaml
from harness.config import config_hash, parse
from harness.sweep.planned import plan_run, refuse_fixed, train_all
from harness.words import own_configs, split_tuning
from judge.comparison import compare
from judge.newcomer import NewcomerVerdict, VerdictScale
from judge.records import read_run
from judge.tuning.outcome import tuning_lines
from judge.tuning.search import apply
from judge.tuning.trials import tuning_folder, tuning_of, with_tuning
from optimizers.plan import overrides_of
from scripts.study.plan_table import PlanLine
from scripts.study.published import Published
from scripts.study.tuner import AGAIN, Tuner

SCALES = CONFIGS / "verdict.yaml"
BASELINE = "adamw"
RANGES = "range.optimizer.<key> and range.schedule.warmup"  # of a newcomer's own keys, and of what all are tuned in


@dataclass(frozen=True)
class Study:
    """Everything that a verdict runs."""

    name: str  # of the scale
    scale: VerdictScale
    folder: Path  # of the compared runs; the trials are beside it
    base: Tuner
    newcomer: Tuner

    @staticmethod
    def of(word: str, name: str, arguments: Sequence[str]) -> "Study":
        """Make the study. Raises ValueError for a wrong optimizer or argument, before anything is trained."""
        scales = read_yaml(SCALES)
        if name not in scales:
            raise ValueError(f"there is no scale {name!r} in {SCALES.name}: {nearest(name, scales)}")
        scale: VerdictScale = construct(VerdictScale, scales[name], name)
        own, rest = split_tuning(arguments)
        if own["trials"] is not None:
            raise ValueError(f"trials is fixed for both by the scale {name}: scripts.tune takes another number")
        for key in own["ranges"]:
            if not key.startswith("optimizer.") and key != "schedule.warmup":
                raise ValueError(f"range.{key} would tune what {BASELINE} is not tuned in: give {RANGES} alone")
        refuse_fixed(rest, f"the scale {name}")
        ours = overrides_of(word, *(flag.partition("=")[2] for flag in own_configs(rest)[0]))
        common = [*scale.config, f"steps={scale.steps}", *rest]
        # Named for what all its runs share: another commit's scale is another study.
        draft = Tuner.of([*common, "study=verdict-draft", f"optimizer={BASELINE}"], scale.trials)
        study = f"study=verdict-{name}-{config_hash(draft.values)[:8]}"
        base = Tuner.of([*common, study, f"optimizer={BASELINE}"], scale.trials)
        newcomer = Tuner.of([*common, study, *ours], scale.trials, own["ranges"])
        if newcomer.optimizer == base.optimizer:
            raise ValueError(f"{word} is the baseline itself: give another optimizer")
        return Study(name, scale, RUNS / str(base.values["study"]), base, newcomer)

    @property
    def tuners(self) -> list[Tuner]:
        return [self.base, self.newcomer]

    def lengths(self, tuner: Tuner) -> list[int]:
        """Return the lengths of an optimizer's compared runs, in updates."""
        return self.scale.lengths(self.scale.baseline if tuner is self.base else self.scale.newcomer)

    def compared(self, tuner: Tuner) -> list[PlannedRun]:
        """Return the runs of an optimizer that the verdict is read from, with what was chosen for it."""
        best = tuner.read().best
        assert best is not None
        chosen = apply(tuner.flat, best.settings)
        return [
            plan_run(tuner.values, {**chosen, "steps": steps, "seed": seed}, self.folder)
            for steps in self.lengths(tuner)
            for seed in self.scale.seeds
        ]

    def plan_lines(self) -> Iterator[PlanLine]:
        """Yield every step and optimizer; what depends on a choice to come is left whole."""
        configs = [parse(tuner.values) for tuner in self.tuners]
        tried = [[run.ended for run in tuner.trials()] for tuner in self.tuners]
        again = [
            [run.ended for run in tuner.again()] if all(ended) else [False] * AGAIN
            for tuner, ended in zip(self.tuners, tried, strict=True)
        ]
        for word, share, many in (("trials", 2, tried), ("best again", 1, again)):
            for tuner, cfg, ended in zip(self.tuners, configs, many, strict=True):
                yield PlanLine(word, tuner.optimizer, cfg, tuner.steps // share, ended)
        for tuner, cfg, ended in zip(self.tuners, configs, again, strict=True):
            runs = self.compared(tuner) if all(ended) else []
            for steps in self.lengths(tuner):
                there = [run.ended for run in runs if run.steps == steps]
                yield PlanLine("compared", tuner.optimizer, cfg, steps, there or [False] * len(self.scale.seeds))

    def take_over(self, preparing: bool) -> list[str]:
        """Copy what is published of the runs, as far as they are known; return sentences on what was copied.

        preparing: whether a large corpus may be prepared for it.
        """
        published = Published(parse(self.base.values), preparing)
        for tuner in self.tuners:
            for planned in (tuner.trials, tuner.again, partial(self.compared, tuner)):
                runs = planned()
                if published.take(runs):
                    tuner.begin()
                if not all(run.ended for run in runs):
                    break  # the next ones depend on these
        return published.sentences()

    def train(self, launcher: Sequence[str]) -> None:
        """Train what is left: the trials of both as one sweep, then the best ones again, then the runs to compare."""
        trials = tuning_folder(self.folder)
        for tuner in self.tuners:
            tuner.begin()
        train_all([run for tuner in self.tuners for run in tuner.trials()], trials, launcher)
        train_all([run for tuner in self.tuners for run in tuner.again()], trials, launcher)
        for tuner in self.tuners:
            tuning, _ = tuner.choose()
            print("\n".join(tuning_lines(tuning)), flush=True)
        train_all([run for tuner in self.tuners for run in self.compared(tuner)], self.folder, launcher)

    def verdict(self, checks: list[dict[str, Any]]) -> NewcomerVerdict:
        """Compare the chosen runs alone, whatever else is in the folder."""
        tunings = {o: t for o, t in tuning_of(self.folder).items() if o in [each.optimizer for each in self.tuners]}
        runs = [read_run(run.folder) for tuner in self.tuners for run in self.compared(tuner)]
        comparison = with_tuning(compare(runs, self.base.optimizer), tunings)
        about = self.newcomer.optimizer, int(self.base.values["seed"])
        return NewcomerVerdict(self.name, self.scale, self.folder, *about, checks, comparison, tunings)
