"""Collects the board's rows: each optimizer's speed-up over AdamW in steps, by size, in runs of others and in ours.

A row is one optimizer at one size in one study. In a public study of several budgets its interval holds those of all of
them. Runs of others and our own never share a row.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from judge import race
from judge.claims.public import hull
from judge.comparison import compare
from judge.estimate import Speedup
from judge.fairness import endings
from judge.public.collect import place
from judge.public.study import PublicStudy, list_studies
from judge.public.tables import by_choice
from judge.publication import UNKEPT
from judge.records import find_runs, has_runs
from judge.row import Row, verdict_on
from judge.scale import Figure, figures
from judge.tuning.trials import SUFFIX


@dataclass(frozen=True)
class BoardRow:
    """One speed-up over AdamW in steps, with where it comes from."""

    optimizer: str
    size: str  # as a reader knows it: 130M
    parameters: float
    speedup: Speedup
    verdict: str
    seeds: int  # the fewest that entered
    at: str  # budgets or updates
    parts: tuple[str, ...]  # of several budgets the speed-up at each
    rule: str
    baseline: str
    study: str
    ours: bool
    address: str  # of its source
    command: str  # that gives the number again
    beware: str
    pictured: bool = True  # whether it is in the picture, or in the table alone


def public_rows(studies: Sequence[PublicStudy] | None = None) -> list[BoardRow]:
    """Return a row for each arm and size of the public studies that have AdamW, the study of most sizes first."""
    rows: list[BoardRow] = []
    for study in list_studies() if studies is None else studies:
        baseline = study.adamw or study.baseline
        own: dict[tuple[str, str], list[Figure]] = {}
        for each in figures(by_choice(study.cells, study.losses), baseline, study.declared, study.rule):
            if each.speedup.known:
                own.setdefault((each.cell.arm, each.cell.size), []).append(each)
        rows += [_public_row(study, baseline, figures_of) for figures_of in own.values()]
    sizes = {row.study: len({each.size for each in rows if each.study == row.study}) for row in rows}
    return sorted(rows, key=lambda row: -sizes[row.study])


def _public_row(study: PublicStudy, baseline: str, own: Sequence[Figure]) -> BoardRow:
    kept = sorted([each for each in own if each.room] or own, key=lambda each: each.cell.tokens)
    cell, speedup = kept[0].cell, hull([each.speedup for each in kept])
    budgets = [each.cell.budget for each in kept if each.cell.budget]
    at = f"{', '.join(budgets)} x Chinchilla" if budgets else f"{cell.updates:,} updates"
    parts = [f"{each.cell.budget}x: {each.speedup} ({each.speedup.interval})" for each in kept if each.cell.budget]
    return BoardRow(
        optimizer=cell.arm,
        size=cell.size.upper(),
        parameters=cell.parameters,
        speedup=speedup,
        verdict=verdict_on(speedup) or "",
        seeds=min(len(each.cell.losses) for each in kept),
        at=at,
        parts=tuple(parts),
        rule=study.rule,
        baseline=baseline,
        study=study.name,
        ours=False,
        address=study.address(replace(cell, source=place([each.cell.source for each in kept]))),
        command=study.command,
        beware=study.beware_of_adamw,
        pictured=not study.pictured or cell.arm in study.pictured,
    )


def own_rows(results: Path, baseline: str = "adamw") -> list[BoardRow]:
    """Return a row for each optimizer of our published studies that has an interval over AdamW.

    Of the rules matched and reverse it is by the one that stays within its ladder, or else excludes more.
    """
    rows: list[BoardRow] = []
    kept = (path for path in results.iterdir() if path.is_dir() and path.name not in UNKEPT)
    for study in sorted(path for path in kept if not path.name.endswith(SUFFIX)):
        runs = [run for run in find_runs(study) if not run.known("origin")] if has_runs(study) else []
        if baseline not in {run.optimizer for run in runs}:
            continue
        comparison = compare(runs, baseline)
        if race.is_race(comparison):
            continue
        size = max(run.known("parameters", "total") or 0 for run in runs)
        tokens = next((run.known("tokens_per_step") for run in runs if run.known("tokens_per_step")), 0)
        in_steps = [row for row in comparison.rows if row.axis == "steps" and row.speedup.interval]
        for arm in dict.fromkeys(row.arm for row in in_steps):
            mine = [row for row in in_steps if row.arm == arm]
            for row in sorted(mine, key=_vague)[:1]:
                rows.append(
                    BoardRow(
                        optimizer=row.optimizer,
                        size=f"{size / 1e6:.2g}M",
                        parameters=float(size),
                        speedup=row.speedup,
                        verdict=row.words,
                        seeds=row.seeds,
                        at=f"{row.length:,} updates of {tokens:,} tokens",
                        parts=(),
                        rule=row.rule,
                        baseline=baseline,
                        study=study.name,
                        ours=True,
                        address=f"../{results.name}/{study.name}",
                        command=f"python -m scripts.speedup {results.name}/{study.name}",
                        beware="; ".join([*comparison.warnings, *endings(runs)]),
                    )
                )
    return rows


def _vague(row: Row) -> tuple[bool, float]:
    """Return how little a rule's row says: whether it ends beyond the ladder, then how little it excludes."""
    low, high = row.speedup.low or 0.0, row.speedup.high or math.inf
    return row.speedup.censored is not None, -max(low, 1 / high)


def by_speedup(rows: Sequence[BoardRow]) -> Iterator[tuple[str, list[BoardRow]]]:
    """Yield each optimizer with its rows by size, the fastest at its largest size first."""
    names: dict[str, list[BoardRow]] = {}
    for row in sorted(rows, key=lambda row: row.parameters):
        names.setdefault(row.optimizer, []).append(row)
    yield from sorted(names.items(), key=lambda item: (-_center(item[1][-1].speedup), item[0]))


def _center(speedup: Speedup) -> float:
    return next((end for end in (speedup.value, speedup.high, speedup.low) if end is not None), 0.0)
