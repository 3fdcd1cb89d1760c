"""Claims of papers: lists them, says what their runs cost, runs them, and says whether they hold.

    python -m scripts.claims list
    python -m scripts.claims plan sophia_2x --scale small         # runs, tokens, FLOPs, bytes, hours on this machine
    python -m scripts.claims run sophia_2x launcher=local         # trains what is missing, resumes what was cut off
    python -m scripts.claims run sophia_2x --scale tiny --smoke   # the first seed alone: it can decide nothing
    python -m scripts.claims run sophia_2x soap_40_35 --scale small --minutes 9   # what tells most first; goes on
    python -m scripts.claims verify sophia_2x                     # the verdict, with 95 % intervals
    python -m scripts.claims verify sophia_2x --scale public      # the same, by runs that others published
    python -m scripts.claims table sophia_2x --format latex

A claim is a file, configs/claim/<name>.yaml, or any YAML given by its path; judge/claims/claim.py says what is in
it, judge/claims/verdict.py what the verdicts mean. Its runs are in results/runs/<claim>-<scale>-<part>/, beside
plan.yaml, which says what each arm's are. verify and table read these folders only: a smoke's runs count as the first
of the whole claim's. With --minutes the runs are interrupted in time, are checkpointed every 250 updates at least, and
leave no weights; the same command goes on.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from conventions.paths import path_argument
from conventions.run_format import RUNS
from conventions.sentence import Arguments, cut_short, nearest, one_sentence
from conventions.terminal_table import console
from judge.claims.claim import Claim
from judge.claims.claim_file import SCALES, find_claim, list_claims
from judge.claims.evidence import PUBLIC
from judge.claims.public import verify_public
from judge.claims.tables import FORMATS, render
from judge.claims.verdict import verify
from judge.claims.words import as_json
from scripts.pages.claim_table import show


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)  # of run, keys may stand behind options too
    if options.command not in ("plan", "run") or any(word.startswith("-") for word in rest):
        options = parser.parse_args(arguments)
    with one_sentence(), cut_short():
        if options.command == "list":
            print_list(console())
        elif options.command == "run":
            raise SystemExit(train(options, [*options.more, *rest]))
        elif options.command == "plan":
            print_plan(options, [*options.more, *rest])
        else:
            claim = find_claim(options.claim)
            if options.scale == PUBLIC or not claim.scales:
                verdict = verify_public(claim, options.part)
            else:
                verdict = verify(claim, options.scale, *_chosen(claim, options), options.runs)
            if options.command == "table":
                print(render(verdict, options.format), end="")
            elif options.json:
                print(json.dumps(as_json(verdict), indent=1, allow_nan=False))
            else:
                show(verdict, console())


def train(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Train what is left of one claim or several, one after another; return the first exit code that is not 0."""
    from scripts.study import claim_plan, claim_runs  # here and in print_plan alone are torch and Hydra needed

    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise ValueError(f"--minutes must be above 0, not {options.minutes:g}")
    overrides = [*_flags(options), *(word for word in words if "=" in word)]
    claims = [find_claim(word) for word in dict.fromkeys([options.claim, *(w for w in words if w not in overrides)])]
    asked = [claim_runs.ClaimRuns(each, options.scale, *_chosen(each, options), overrides) for each in claims]
    for each in asked:
        claim_plan.check_arms(each)
    claim_plan.check_device(asked[0])
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    codes = [claim_runs.run(each, end) for each in asked]
    return next((code for code in codes if code), 0)


def print_plan(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Print what the runs of a claim cost; the plans of those that are there are written anew."""
    from harness.sweep.planned import launcher_of
    from scripts.study import claim_plan, claim_runs
    from scripts.study.plan_table import print_costs

    if others := [word for word in words if "=" not in word]:
        raise ValueError(f"plan is about one claim: leave out {', '.join(others)}, or give keys as key=value")
    claim, overrides = find_claim(options.claim), [*_flags(options), *words]
    asked = claim_runs.ClaimRuns(claim, options.scale, *_chosen(claim, options), overrides, options.runs)
    claim_plan.check_arms(asked)
    plans = asked.plans()
    asked.write(
        {part: plan for part, plan in plans.items() if (options.runs / claim.study(options.scale, part)).is_dir()}
    )
    place = console()
    place.print(f"{claim.name}, scale {options.scale}: {claim.sentence}", highlight=False, markup=False)
    lines = claim_plan.plan_lines(asked, asked.runs_by_cell(plans))
    print_costs(f"The runs of {claim.name}, scale {options.scale}", lines, launcher_of(asked.overrides, None), place)


def print_list(console: Console) -> None:
    """Print each claim: what it says, and its runs and parts at each scale."""
    for claim in list_claims():
        console.print(claim.name, style="bold", highlight=False, markup=False)
        console.print(Padding(Text(f"{claim.sentence} ({claim.source})"), (0, 0, 0, 4)))
        for name, scale in claim.scales.items():
            runs = len(scale.cells(list(scale.parts), scale.seeds))
            console.print(Padding(Text(f"{name}: {runs} runs ({', '.join(scale.parts)})", "dim"), (0, 0, 0, 4)))
        for study in dict.fromkeys(each.study for each in claim.public):
            console.print(Padding(Text(f"{PUBLIC}: {study}", "dim"), (0, 0, 0, 4)))


def _flags(options: argparse.Namespace) -> list[str]:
    return [f"--config-dir={options.config_dir}"] if options.config_dir else []


def _chosen(claim: Claim, options: argparse.Namespace) -> tuple[list[str], list[int]]:
    """Return the parts and the seeds that are asked for."""
    scale = claim.scale(options.scale)
    for part in options.part:
        if part not in scale.parts:
            raise ValueError(
                f"{claim.name} has no part {part!r} at the scale {options.scale}: {nearest(part, scale.parts)}"
            )
    wanted = 1 if options.smoke else len(scale.seeds) if options.seeds is None else options.seeds
    if not 1 <= wanted <= len(scale.seeds):
        raise ValueError(
            f"--seeds must be between 1 and {len(scale.seeds)}, the seeds that the claim fixed, not {wanted}"
        )
    return options.part or list(scale.parts), scale.seeds[:wanted]


def _parser() -> Arguments:
    parser = Arguments.of("scripts.claims", __doc__, whole=True)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list, plan, run, verify or table")
    commands.add_parser("list", help="every claim, and its runs at each scale")
    about = {
        "plan": "runs, tokens, FLOPs, bytes and hours, before anything starts",
        "run": "train what is left of it, by train.py's own sweep",
        "verify": "the verdict",
        "table": "the paper's table with ours beside it",
    }
    for name, purpose in about.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("claim", help="a name that list shows, or the path of a YAML")
        known = (PUBLIC, *SCALES) if name in ("verify", "table") else SCALES
        command.add_argument("--scale", choices=known, default="tiny", help="default: tiny; public: runs of others")
        command.add_argument("--part", action="append", default=[], help="one of its parts; may be given again")
        command.add_argument("--seeds", type=int, help="how many of its seeds, from the first (default: all)")
        command.add_argument("--smoke", action="store_true", help="the first seed alone")
        if name in ("plan", "run"):
            command.add_argument("--config-dir", type=path_argument, help="a folder with configs of your own")
            keys = "data.tokenizer=hf:FOLDER, device=... and the like"
            command.add_argument("more", nargs="*", help=keys + "; or more claims" * (name == "run"))
        if name == "run":
            command.add_argument("--minutes", type=float, help="stop then; the runs that tell most are the first")
        else:
            command.add_argument("--runs", type=path_argument, default=RUNS, help=f"of the studies (default: {RUNS})")
        if name == "verify":
            command.add_argument("--json", action="store_true", help="print JSON and nothing else")
        if name == "table":
            command.add_argument("--format", choices=FORMATS, default="markdown", help="default: markdown")
    return parser


if __name__ == "__main__":
    main()
