"""The verdict on anyone's optimizer: is it faster than the baseline, tuned alike, over seeds and lengths?

    python -m scripts.verdict lion                                   # make verdict OPTIMIZER=lion
    python -m scripts.verdict pytorch_optimizer.AdEMAMix             # any torch.optim.Optimizer that can be imported
    python -m scripts.verdict my_package.MyOpt --scale small --plan  # what it would take, and nothing else
    python -m scripts.verdict my_package.MyOpt --scale small launcher.jobs=2 'range.optimizer.lr=[1e-4,1e-1]'

OPTIMIZER is the name of a YAML in configs/optimizer, or the path of a class, whose package is then trusted; a class
that needs more than a learning rate gets a YAML of its own. Checks of conformance come first, then equal tuning of it
and of the baseline, then both over three seeds, the baseline at three lengths. Expect results/verdicts/<optimizer>/ (at
another scale than tiny, <optimizer>-<scale>/) with report.html, verdict.json and conformance.json. All verdicts at a
scale share the baseline's runs; what results/ holds of them is copied to results/runs first, where its corpus and
precision are this machine's. Interrupted, the same command goes on where it was. The scales: configs/verdict.yaml.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from conventions import atomic
from conventions.quantity import TITLE
from conventions.sentence import one_sentence
from harness.config import parse
from harness.sweep.planned import launcher_of
from judge.comparison import Comparison
from judge.row import Row
from judge.tuning.trials import Tuning
from optimizers.plan import check_optimizer
from scripts import report
from scripts.pages import tuning_figure
from scripts.study.conformance import Check, conformance
from scripts.study.plan_table import print_costs
from scripts.study.tuner import Tuner
from scripts.study.verdict_study import BASELINE, Study

VERDICTS = Path("results/verdicts")
TOO_SMALL = "runs too small"  # as judge.row begins to say it


@dataclass(frozen=True)
class NewcomerVerdict:
    """What is said of a newcomer."""

    study: Study
    checks: list[Check]
    comparison: Comparison
    tunings: dict[str, Tuning]

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The rows of the rule that decides, by axis."""
        return {row.axis: row for row in self.comparison.rows if row.rule == "matched"}

    @property
    def optimizer(self) -> str:
        return self.study.newcomer.optimizer

    @property
    def sentence(self) -> str:
        """`lion, held against adamw at the scale tiny: slower in steps, .71 (.65 to .78); ...`."""
        found = "; ".join(
            f"{row.verdict or 'no verdict'} in {TITLE[axis]}"
            + (f", {row.speedup}" if row.speedup.known else "")
            + (f" ({row.speedup.interval})" if row.speedup.interval else "")
            for axis, row in self.rows.items()
        )
        small = next((note for row in self.rows.values() for note in row.notes if note.startswith(TOO_SMALL)), "")
        why = f" {small[0].upper()}{small[1:]}." if small else ""
        failed = f" It fails {self.failed} of {len(self.checks)} checks of conformance." if self.failed else ""
        return f"{self.optimizer}, held against {BASELINE} at the scale {self.study.name}: {found}.{why}{failed}"

    @property
    def failed(self) -> int:
        return sum(not check.passed for check in self.checks)

    @property
    def scope(self) -> str:
        return f"What a verdict at the scale {self.study.name} may say: {self.study.scale.may_say}"

    @property
    def protocol(self) -> str:
        study, scale = self.study, self.study.scale
        lengths = ", ".join(f"{length:,}" for length in study.lengths(study.base))
        ours = ", ".join(f"{length:,}" for length in study.lengths(study.newcomer))
        trials, seed = f"{scale.trials} trials of {scale.steps // 2:,} updates", study.base.values["seed"]
        lost = ", ".join(f"{tuning.diverged} of {name}" for name, tuning in self.tunings.items())
        return (
            f"Speed-ups by the matched rule, above 1 is faster, with 95 % intervals from {len(scale.seeds)} seeds: the "
            f"{BASELINE} length that reaches the newcomer's loss, from {BASELINE} at {lengths} updates and "
            f"{self.optimizer} at {ours}. Both were tuned by {trials}, the best and its neighbours again at "
            f"{scale.steps:,}, on the seed {seed}; diverged: {lost}."
        )

    def json(self) -> dict[str, Any]:
        """Everything, with numbers as numbers."""
        return {
            **{"optimizer": self.optimizer, "baseline": BASELINE, "scale": self.study.name},
            **{"verdict": self.rows["steps"].verdict if self.rows else None, "sentence": self.sentence},
            **{"may_say": self.study.scale.may_say, "study": str(self.study.folder)},
            "rows": [row.json() for row in self.comparison.rows],
            "conformance": [asdict(check) for check in self.checks],
            "tuning": {
                name: {
                    "trials": len(tuning.trials), "again": len(tuning.again), "diverged": tuning.diverged,
                    "settings": tuning.best.settings if tuning.best else None, "loss": tuning.loss,
                    "flops": tuning.flops, "edges": tuning.edges,
                }
                for name, tuning in self.tunings.items()
            },
            **{"warnings": self.comparison.warnings, "notes": self.comparison.notes},
        }  # fmt: skip

    def page(self) -> str:
        """The report of the compared runs, with the verdict and the checks on top."""
        page = report.render(self.comparison, tunings=self.tunings)
        if len(page.encode()) > report.LARGEST:
            page = report.render(self.comparison, details=False, tunings=self.tunings)
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        facts = {"sentence": self.sentence, "protocol": self.protocol, "scope": self.scope, "checks": self.checks}
        top = environment.get_template("verdict.html").render(**facts, failed=self.failed)
        return page.replace("<main>", f"<main>\n{top}", 1)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_intermixed_args(arguments)
    with one_sentence():
        study = Study.of(options.optimizer, options.scale, options.overrides)
        launcher = launcher_of(options.overrides)
        said = study.take_over(preparing=False)
        print("".join(f"{each}\n" for each in said), end="")
        print_costs(f"Before a verdict at the scale {study.name}", study.plan_lines(), launcher, Console())
        if options.plan:
            return
        place = VERDICTS / (options.optimizer if options.scale == "tiny" else f"{options.optimizer}-{options.scale}")
        checks = _checked(study.newcomer, place)
        print("".join(f"{each}\n" for each in study.take_over(preparing=True) if each not in said), end="")
        study.train(launcher)
        verdict = NewcomerVerdict(study, checks, *study.comparison())
        atomic.write_text(place / "report.html", verdict.page())
        atomic.write_text(place / "verdict.json", json.dumps(verdict.json(), indent=1) + "\n")
        tuning_figure.save(verdict.tunings, place / "learning_rate")
        for warning in verdict.comparison.warnings:
            print(f"warning: {warning}")
        print(f"\n{verdict.sentence}\n{verdict.scope}\nreport: {place / 'report.html'}")


def _checked(tuner: Tuner, place: Path) -> list[Check]:
    """The rows of conformance. Raises ValueError if the class cannot be trained at all."""
    cfg = parse(tuner.values)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets)
    checks = conformance(planned.build, planned.info.charges)
    for check in checks:
        print(f"  {'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}", flush=True)
    atomic.write_text(place / "conformance.json", json.dumps([asdict(check) for check in checks], indent=1) + "\n")
    if sum(check.passed for check in checks) <= 1:  # its groups may be well, and then nothing else is
        raise ValueError(f"{tuner.optimizer} cannot be trained here ({checks[0].detail}): {place / 'conformance.json'}")
    return checks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verdict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("optimizer", help="a name of configs/optimizer, or package.module.Class")
    parser.add_argument("overrides", nargs="*", help="launcher=..., device=..., range.<key>=[low,high]")
    parser.add_argument("--scale", default="tiny", help="an entry of configs/verdict.yaml (default: tiny)")
    parser.add_argument("--plan", action="store_true", help="print what it takes, and start nothing")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
