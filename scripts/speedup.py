"""Prints how much faster every optimizer in a folder of runs is than the baseline.

    python -m scripts.speedup results/runs/my_study --baseline adamw
    python -m scripts.speedup results/runs/my_study --target 3.28 --json

Expect two tables: final losses with what it cost to reach the baseline's, and for each optimizer and rule the
speed-up in steps, FLOPs and seconds, its 95 % interval and the verdict. Where each optimizer has one run of one length
there is a race instead: the first table, who led, and what a verdict would take. judge/speedup.py says what the rules
measure and the verdicts mean, judge/ladder.py how the interval is made. `>2` and `<0.5` mean beyond the
ladder of run lengths: with --json these are numbers, and `censored` is "above" or "below". `low` or `high` is
null where the interval leaves the ladder; both are where there is none.
"""

import argparse
import json
import math
from collections.abc import Sequence

from rich.console import Console

from conventions.paths import path_argument
from conventions.sentence import Arguments, cut_short, one_sentence
from conventions.terminal_table import console, terminal_table
from judge import race
from judge.comparison import Comparison, compare
from judge.comparison_tables import speedups_grid, standings_grid
from judge.declared import Declared, Sigma, Slope
from judge.records import find_runs
from judge.tuning.trials import tuning_of, with_tuning

COLORS = {"faster": "green", "slower": "red", "diverged": "red"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.speedup", __doc__)
    parser.add_argument("folder", type=path_argument, help="folder with runs anywhere below it")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    parser.add_argument("--target", type=float, help="validation loss for the rule `target` (default: the baseline's)")
    add_declared(parser)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, and nothing else")
    options = parser.parse_args(arguments)
    with one_sentence():
        comparison = compare(find_runs(options.folder), options.baseline, options.target, declared(options))
        comparison = with_tuning(comparison, tuning_of(options.folder.resolve()))
        if not comparison.rows:
            raise ValueError(f"{options.folder} holds no optimizer but {options.baseline}: train another one too")
    with cut_short():
        if options.json:
            print(json.dumps([row.json() for row in comparison.rows], indent=1, allow_nan=False))
        else:
            show(comparison, console())


def add_declared(parser: Arguments) -> None:
    """Add the options by which a person states noise and slopes."""
    parser.add_argument("--sigma", type=float, help="standard deviation of a run's final loss, where seeds are few")
    parser.add_argument("--sigma-from", default="", metavar="TEXT", help="where that was measured: needed with it")
    parser.add_argument("--sigma-freedom", type=float, default=math.inf, help="its degrees of freedom (default: known)")
    slope = "ask the rule isoloss: nats that twice the length gains, or `ladder` for the baseline's own law"
    parser.add_argument("--slope", help=slope)
    parser.add_argument("--slope-factor", type=float, default=1.5, help="within which it is known (default: 1.5)")
    parser.add_argument("--slope-from", default="", metavar="TEXT", help="which law it is from: needed with a number")
    parser.add_argument("--within", type=float, default=0.01, help="nats from the loss, for isoloss (default: .01)")


def declared(options: argparse.Namespace) -> Declared:
    """Read what the command line states. Raises ValueError where a number has no source."""
    sigma = None if options.sigma is None else Sigma(options.sigma, options.sigma_from, options.sigma_freedom)
    slope = None
    if options.slope not in (None, "ladder"):
        try:
            value = float(options.slope)
        except ValueError:
            raise ValueError(f"--slope is {options.slope!r}: give nats for twice the length, or `ladder`") from None
        slope = Slope(value, options.slope_factor, options.slope_from)
    return Declared(sigma, options.slope is not None, slope, options.target, options.within)


def show(comparison: Comparison, console: Console) -> None:
    """Print the warnings, both tables (of a race the first, and who led), and what there is to know about them."""
    for warning in comparison.warnings:
        console.print(f"warning: {warning}", style="bold red", highlight=False, markup=False)
    racing = race.is_race(comparison)
    console.print(terminal_table(standings_grid(comparison, ratios=True)))
    if racing:
        console.print(race.leader(comparison), style="bold", highlight=False, markup=False)
        console.print(race.verdict_takes(comparison), highlight=False, markup=False)
    else:
        console.print(terminal_table(speedups_grid(comparison, lines=True), ("rule",), COLORS))
    for note in race.notes(comparison) if racing else comparison.notes:
        console.print(f"- {note}", style="dim", highlight=False, markup=False)


if __name__ == "__main__":
    main()
