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

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from conventions import atomic
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from conventions.terminal_table import console
from harness.config import parse
from harness.memory import bounded
from harness.sweep.planned import launcher_of
from judge.newcomer import NewcomerVerdict
from optimizers.plan import check_optimizer
from scripts import report
from scripts.pages import tuning_figure
from scripts.study.conformance import Check, conformance
from scripts.study.plan_table import print_costs
from scripts.study.tuner import Tuner
from scripts.study.verdict_study import Study

VERDICTS = Path("results/verdicts")


def page(verdict: NewcomerVerdict) -> str:
    """Return the report of the compared runs, with the verdict and the checks on top."""
    top = report.template("verdict.html").render(verdict=verdict)
    return report.page(verdict.comparison, verdict.tunings).replace("<main>", f"<main>\n{top}", 1)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_intermixed_args(arguments)
    with one_sentence():
        words = [*([f"--config-dir={options.config_dir}"] if options.config_dir else []), *options.overrides]
        study, launcher = Study.of(options.optimizer, options.scale, words), launcher_of(words)
        shown = study.take_over(preparing=False)
        print("".join(f"{each}\n" for each in shown), end="")
        print_costs(f"Before a verdict at the scale {study.name}", study.plan_lines(), launcher, console())
        if options.plan:
            return
        place = VERDICTS / (options.optimizer if options.scale == "tiny" else f"{options.optimizer}-{options.scale}")
        checks = _checked(study.newcomer, place)
        print("".join(f"{each}\n" for each in study.take_over(preparing=True) if each not in shown), end="")
        study.train(launcher)
        verdict = study.verdict([asdict(check) for check in checks])
        atomic.write_text(place / "report.html", page(verdict))
        atomic.write_text(place / "verdict.json", json.dumps(verdict.json(), indent=1) + "\n")
        tuning_figure.save(verdict.tunings, place / "learning_rate")
        for warning in verdict.comparison.warnings:
            print(f"warning: {warning}")
        print(f"\n{verdict.sentence}\n{verdict.scope}\nreport: {place / 'report.html'}")


def _checked(tuner: Tuner, place: Path) -> list[Check]:
    """Run the checks of conformance. Raises ValueError if the class cannot be trained at all."""
    cfg = parse(tuner.values)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets)
    with bounded("cpu"):
        checks = conformance(planned.build, planned.info.charges)
    for check in checks:
        print(f"  {'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}", flush=True)
    atomic.write_text(place / "conformance.json", json.dumps([asdict(check) for check in checks], indent=1) + "\n")
    if sum(check.passed for check in checks) <= 1:  # its groups may be well, and then nothing else is
        raise ValueError(f"{tuner.optimizer} cannot be trained here ({checks[0].detail}): {place / 'conformance.json'}")
    return checks


def _parser() -> Arguments:
    parser = Arguments.of("scripts.verdict", __doc__, whole=True)
    parser.add_argument("optimizer", help="a name of configs/optimizer, or package.module.Class")
    parser.add_argument("overrides", nargs="*", help="launcher=..., device=..., range.<key>=[low,high]")
    parser.add_argument("--scale", default="tiny", help="an entry of configs/verdict.yaml (default: tiny)")
    parser.add_argument("--config-dir", type=path_argument, help="a folder with configs of your own")
    parser.add_argument("--plan", action="store_true", help="print what it takes, and start nothing")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
