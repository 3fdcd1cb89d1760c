"""The verdict on a claim by runs that others published, from the tables of results/public.

A part is one size of a study. Its number is the geometric mean of the speed-ups in the study's cells of that size, and
its interval reaches from the lowest end of their intervals to the highest: a statement holds if it holds in each cell,
and is not seen if it is seen in none of them. A cell at the top of the baseline's ladder is left out, for there no gain
can show.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from judge.claims.claim import Claim, Part, Scale
from judge.claims.evidence import PUBLIC, Evidence, Shown
from judge.claims.measure import Measured
from judge.claims.statement import Statement
from judge.claims.verdict import Finding, Verdict, judge
from judge.estimate import Speedup
from judge.public.study import PublicStudy, read_study
from judge.scale import Figure
from judge.spread import SEEDS

NOT_SEEN = "not seen in these runs"  # where a claim's own protocol would refute it


def verify_public(claim: Claim, parts: Sequence[str] = ()) -> Verdict:
    """Return the verdict on a claim by all its public evidence, or by some parts of it.

    Raises ValueError if the claim has none, or no such part.
    """
    if not claim.public:
        raise ValueError(f"{claim.path} names no public runs: give it `public`, or choose another --scale")
    findings: list[Finding] = []
    shown: list[Shown] = []
    footnotes: list[str] = []
    warnings: list[str] = []
    may_say: list[str] = []
    for evidence in claim.public:
        study = read_study(evidence.study)
        by_size = evidence.figures(study)
        wanted = {size: own for size, own in by_size.items() if not parts or part_of(study, size) in parts}
        for (size, own), statement in product(wanted.items(), filter(evidence.about, claim.statements)):
            findings.append(_finding(statement, evidence, study, size, own))
        shown += [
            each for size, own in wanted.items() for each in _shown(evidence, study, size, own) if each not in shown
        ]
        if wanted:
            footnotes += notes(evidence, study, [each for own in wanted.values() for each in own])
            warnings += [f"{study.name}: {study.beware.strip()}"] if study.beware else []
            may_say.append(f"{study.name}: {evidence.may_say}")
    if not findings:
        studies = [(evidence, read_study(evidence.study)) for evidence in claim.public]
        there = dict.fromkeys(part_of(study, size) for evidence, study in studies for size in evidence.figures(study))
        raise ValueError(f"{claim.name} has no public part {' or '.join(parts)}: there are {', '.join(there)}")
    names = list(dict.fromkeys(each.part for each in findings))
    scale = Scale(PUBLIC, " ".join(dict.fromkeys(may_say)), {}, 0, [], {}, {name: Part() for name in names})
    footnotes, warnings = list(dict.fromkeys(footnotes)), list(dict.fromkeys(warnings))
    return Verdict(claim, scale, names, {name: {} for name in names}, [], findings, warnings, footnotes, shown)


def part_of(study: PublicStudy, size: str) -> str:
    return f"{study.name} {size}"


def hull(speedups: Sequence[Speedup]) -> Speedup:
    """Return the geometric mean of speed-ups, and an interval that holds all of theirs; open where one of them is.

    Where none has a value inside its ladder, it is the one bound that all of them share.
    """
    logs = [math.log(each.value) for each in speedups if each.value and not each.censored]
    lows, highs = [each.low for each in speedups], [each.high for each in speedups]
    low = min((end for end in lows if end is not None), default=None) if None not in lows else None
    high = max((end for end in highs if end is not None), default=None) if None not in highs else None
    if logs:
        return Speedup(math.exp(sum(logs) / len(logs)), low, high)
    bounds = {each.censored: each.value for each in speedups}
    (censored, value), *others = bounds.items()
    return Speedup(None, low, high) if others else Speedup(value, low, high, censored)


def _finding(statement: Statement, evidence: Evidence, study: PublicStudy, size: str, own: Sequence[Figure]) -> Finding:
    estimate = hull([each.speedup for each in own])
    seeds = min(len(each.cell.losses) for each in own)
    measured = Measured(estimate, seeds, estimate.interval != "")
    verdict = judge(statement, estimate, measured.decides, evidence.papers_own, NOT_SEEN)
    return Finding(statement, part_of(study, size), {"steps": measured}, verdict)


def _shown(evidence: Evidence, study: PublicStudy, size: str, own: Sequence[Figure]) -> list[Shown]:
    """Return the baseline's cells of a size, then the newcomer's."""
    choice, part = evidence.losses or study.losses, part_of(study, size)
    bases = [chosen for cell in study.cells if (cell.arm, cell.size) == (evidence.against, size)
             if (chosen := cell.by(choice))]  # fmt: skip
    return [*(Shown(part, cell, None) for cell in bases), *(Shown(part, each.cell, each.speedup) for each in own)]


def notes(evidence: Evidence, study: PublicStudy, own: Sequence[Figure]) -> list[str]:
    """Return sentences on what a study's numbers rest on: the rule, what is declared, the choice of losses."""
    declared, rule = evidence.declared(study), evidence.rule or study.rule
    lines = [f"{study.name}: {study.title}; {study.setting} ({study.repository}, commit {study.commit})"]
    lines.append(f"{study.name}: {evidence.arm} over {evidence.against} by the rule {rule}")
    if any(len(each.cell.losses) < SEEDS for each in own) and declared.sigma:
        lines.append(f"{study.name}: sigma of arms with fewer than {SEEDS} seeds: {declared.sigma}")
    if rule == "isoloss" and declared.slope:
        lines.append(f"{study.name}: a difference in loss is worth {declared.slope}")
    if (evidence.losses or study.losses) == "lowest":
        others = [f"{_label(each)} {each.speedup}" for each in _by_the_other_choice(evidence, study)]
        lines.append(
            f"{study.name}: the losses are the lowest of all trials; of the chosen configurations: {', '.join(others)}"
        )
    return lines


def _by_the_other_choice(evidence: Evidence, study: PublicStudy) -> list[Figure]:
    return [each for own in replace(evidence, losses="chosen").figures(study).values() for each in own]


def _label(figure: Figure) -> str:
    return " ".join(filter(None, (figure.cell.size, figure.cell.budget and f"{figure.cell.budget}x")))
