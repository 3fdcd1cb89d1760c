"""Claims of papers: lists them, says what their runs cost, runs them, and says whether they hold.

    python -m scripts.claims list
    python -m scripts.claims plan sophia_2x --scale small         # runs, tokens, FLOPs, bytes, hours on this machine
    python -m scripts.claims run sophia_2x launcher=local         # trains what is missing, resumes what was cut off
    python -m scripts.claims run sophia_2x --scale tiny --smoke   # the first seed alone: it can decide nothing
    python -m scripts.claims verify sophia_2x                     # the verdict, with 95 % intervals
    python -m scripts.claims table sophia_2x --format latex

A claim is a file, configs/claim/<name>.yaml, or any YAML given by its path; judge/claims/claim.py says what is in
it, judge/claims/verdict.py what the verdicts mean. Its runs are in results/runs/<claim>-<scale>-<part>/. verify and
table read folders only: a smoke's runs count as the first of the whole claim's.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from conventions.sentence import cut_short, nearest, one_sentence
from harness.command_line import composed
from harness.config import parse
from judge.claims.claim import Claim
from judge.claims.claim_file import SCALES, find_claim, list_claims
from judge.claims.planned import Planned, find_planned, planned
from judge.claims.verdict import verify
from scripts.pages.claim_table import FORMATS, as_json, render, show
from scripts.study.sweep import RUNS, command, refuse_fixed
from scripts.study.sweep import run as run_sweep


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)  # of run, keys may stand behind options too
    if options.command != "run" or any(word.startswith("-") for word in rest):
        options = parser.parse_args(arguments)
    with one_sentence(), cut_short():
        if options.command == "list":
            print_list(Console())
            return
        claim = find_claim(options.claim)
        scale = claim.scale(options.scale)
        parts, seeds = _chosen_parts(claim, options), _chosen_seeds(scale.seeds, options)
        if options.command in ("verify", "table"):
            verdict = verify(claim, options.scale, parts, seeds, options.runs)
        if options.command == "verify" and options.json:
            print(json.dumps(as_json(verdict), indent=1, allow_nan=False))
        elif options.command == "verify":
            show(verdict, Console())
        elif options.command == "table":
            print(render(verdict, options.format), end="")
        elif options.command == "plan":
            from scripts.study.claim_cost import check_arms, print_plan  # here and in `run` alone is torch needed

            check_arms(claim, options.scale, parts)
            print_plan(claim, options.scale, _left(claim, options.scale, parts, seeds, options.runs), Console())
        elif options.command == "run":
            raise SystemExit(run(claim, options.scale, parts, seeds, [*options.overrides, *rest]))


def run(claim: Claim, scale: str, parts: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> int:
    """Train what is left of a claim as one sweep, the longest runs first; train.py's exit code."""
    refuse_fixed(overrides, str(claim.path))
    from harness.device import resolve_device
    from scripts.study.claim_cost import check_arms

    check_arms(claim, scale, parts)
    chosen = parse(composed([word for word in overrides if not word.lstrip("+").startswith(("launcher", "hydra"))]))
    if "launcher=slurm" not in overrides:  # whose nodes have devices of their own
        resolve_device(chosen.device)
    jobs = _left(claim, scale, parts, seeds, RUNS)
    left = [job for job, status in jobs.items() if status not in ("finished", "diverged", "running")]
    running = sum(status == "running" for status in jobs.values())
    also = f", {running} still running" if running else ""
    print(f"{claim.name}, scale {scale}: {len(left)} of {len(jobs)} runs to do{also}", flush=True)
    if not left:
        return 0
    left.sort(key=lambda job: -job.steps)
    line, _ = command({job.name: job.experiment() for job in left}, RUNS / f"{claim.name}-{scale}", overrides)
    return run_sweep(line)


def print_list(console: Console) -> None:
    """Each claim: what it says, and its runs and parts at each scale."""
    for claim in list_claims():
        console.print(claim.name, style="bold", highlight=False, markup=False)
        console.print(Padding(Text(f"{claim.sentence} ({claim.source})"), (0, 0, 0, 4)))
        for name, scale in claim.scales.items():
            runs = len(planned(claim, name, list(scale.parts), scale.seeds))
            console.print(Padding(Text(f"{name}: {runs} runs ({', '.join(scale.parts)})", "dim"), (0, 0, 0, 4)))


def _left(
    claim: Claim, scale: str, parts: Sequence[str], seeds: Sequence[int], folder: Path
) -> dict[Planned, str | None]:
    """Every planned run, and what has become of it: its status, None where it has not begun."""
    found = find_planned(claim, scale, parts, seeds, folder)
    return {job: each.status if each else None for job, each in found.items()}


def _chosen_parts(claim: Claim, options: argparse.Namespace) -> list[str]:
    parts = list(claim.scale(options.scale).parts)
    for part in options.part:
        if part not in parts:
            raise ValueError(f"{claim.name} has no part {part!r} at the scale {options.scale}: {nearest(part, parts)}")
    return options.part or parts


def _chosen_seeds(seeds: Sequence[int], options: argparse.Namespace) -> list[int]:
    wanted = 1 if options.smoke else len(seeds) if options.seeds is None else options.seeds
    if not 1 <= wanted <= len(seeds):
        raise ValueError(f"--seeds must be between 1 and {len(seeds)}, the seeds that the claim fixed, not {wanted}")
    return list(seeds[:wanted])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list, plan, run, verify or table")
    commands.add_parser("list", help="every claim, and its runs at each scale")
    about = {
        "plan": "runs, tokens, FLOPs, bytes and hours, before anything starts",
        "run": "train what is left of it, by train.py's own sweep",
        "verify": "the verdict",
        "table": "the paper's table with ours beside it",
    }
    for name, told in about.items():
        command = commands.add_parser(name, help=told, description=told)
        command.add_argument("claim", help="a name that list shows, or the path of a YAML")
        command.add_argument("--scale", choices=SCALES, default="tiny", help="default: tiny")
        command.add_argument("--part", action="append", default=[], help="one of its parts; may be given again")
        command.add_argument("--seeds", type=int, help="how many of its seeds, from the first (default: all)")
        command.add_argument("--smoke", action="store_true", help="the first seed alone")
        if name == "run":
            command.add_argument("overrides", nargs="*", help="launcher=local, tracker=wandb, device=..., and the like")
        else:
            command.add_argument("--runs", type=Path, default=RUNS, help=f"where the studies are (default: {RUNS})")
        if name == "verify":
            command.add_argument("--json", action="store_true", help="print JSON and nothing else")
        if name == "table":
            command.add_argument("--format", choices=FORMATS, default="markdown", help="default: markdown")
    return parser


if __name__ == "__main__":
    main()
