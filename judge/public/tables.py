"""The tables of a public study, by size and budget with a trend, or by arm."""

from collections.abc import Sequence

from conventions.grid import Grid
from conventions.quantity import loss
from judge.public.cell import Cell, Choice
from judge.public.collect import unlike_printed
from judge.public.lowest import least, lucky_figures
from judge.public.study import PublicStudy
from judge.row import verdict_on
from judge.scale import FARTHEST, Figure, Trend, figures, trend
from judge.spread import mean_and_deviation

LOSSES = {"lowest": "the lowest of all trials", "chosen": "of the chosen configurations"}
LUCK = "the lowest of all trials, corrected for its luck"


def study_tables(study: PublicStudy) -> list[Grid]:
    """Return the tables of results/public/<name>.md."""
    if study.rule == "isoloss":
        return [arms(study)]
    tables: list[Grid] = []
    for choice in (study.losses, *(each for each in LOSSES if each != study.losses)):
        own = figures(by_choice(study.cells, choice), study.baseline, study.declared)
        tables += scale_tables(own, study.baseline, study.budget, f"losses: {LOSSES[choice]}")
    if _most_trials(study) > 1:
        own = lucky_figures(by_choice(study.cells, "lowest"), study.baseline, study.declared)
        tables += scale_tables(own, study.baseline, study.budget, f"losses: {LUCK}")
    return tables


def _most_trials(study: PublicStudy) -> int:
    return max((cell.trials for cell in study.cells if cell.lowest is not None), default=1)


def by_choice(cells: Sequence[Cell], choice: Choice | str) -> list[Cell]:
    """Return the cells with the losses of that choice, where the source tells them."""
    own = (cell.by("lowest" if choice == "lowest" else "chosen") for cell in cells)
    return [cell for cell in own if cell]


def scale_tables(speedups: Sequence[Figure], baseline: str, budget: str, losses: str) -> list[Grid]:
    """Return the table by size and budget, and the trends over sizes; no trends where there are too few sizes."""
    trends = _trends(speedups, baseline, losses)
    return [_by_budget(speedups, baseline, budget, losses), *([trends] if trends.rows else [])]


def notes(study: PublicStudy) -> list[str]:
    """Return sentences on what a study is, where it is from, and what its numbers rest on."""
    lines = [f"{study.setting}", f"{study.repository}, commit {study.commit}, folder {study.folder}"]
    lines.append(f"sigma of arms with fewer than 3 seeds: {study.sigma}")
    if study.slope:
        lines.append(f"a difference in loss is worth {study.slope}")
    arms = zip(study.logs.arms, study.cells, strict=True) if study.logs else []
    lines += [text for arm, cell in arms if (text := unlike_printed(arm, cell))]
    if (most := _most_trials(study)) > 1:
        lines.append(
            "luck of the lowest: by noise alone the lowest of n trials lies below a fresh run by 0 nats (one trial is "
            f"far better) up to what n equally good trials give, {-study.sigma.value * least(most):.4f} at {most} "
            "trials. The losses of single trials are not in the table, so that the truth between the two is unknown: "
            "the last tables add half of it to both arms, and their intervals hold both ends"
        )
    return [*lines, *([study.beware.strip()] if study.beware else [])]


def arms(study: PublicStudy) -> Grid:
    """Return a row for each arm: its length, seeds, final loss, what its source prints, and its speed-up."""
    ratios = {each.cell.arm: each.speedup for each in figures(study.cells, study.baseline, study.declared, study.rule)}
    printed = {arm.name: arm.printed for arm in study.logs.arms} if study.logs else {}
    rows = []
    for cell in sorted(study.cells, key=lambda cell: (cell.tokens, cell.arm)):
        ratio, theirs = ratios.get(cell.arm), printed.get(cell.arm)
        own = [str(ratio), ratio.interval, verdict_on(ratio) or ""] if ratio else ["", "", ""]
        source = "" if theirs is None else loss(theirs)
        length = f"{cell.updates:,}" if cell.updates else f"{cell.tokens:,} tokens"
        rows.append([cell.arm, length, str(len(cell.losses)), loss(*mean_and_deviation(cell.losses)), source, *own])
    header = ["arm", "updates", "seeds", "final loss", "mean by its source"]
    title = f"Speed-up over {study.baseline}."
    return Grid(title, [*header, f"{study.rule}, in updates", "95 % interval", "verdict"], rows)


def _by_budget(speedups: Sequence[Figure], baseline: str, budget: str, losses: str) -> Grid:
    """Make a table with rows of optimizer and size, and columns of budgets."""
    budgets = sorted({each.cell.budget for each in speedups}, key=lambda text: (len(text), text))
    rows: dict[tuple[str, float, str], dict[str, str]] = {}
    for each in speedups:
        place = (each.cell.arm, each.cell.parameters, each.cell.size)
        rows.setdefault(place, {})[each.cell.budget] = each.speedup.figure
    ordered = sorted(rows.items(), key=lambda row: (row[0][0].lower(), *row[0][1:]))
    body = [[name, size, *(own.get(each, "") for each in budgets)] for (name, _, size), own in ordered]
    title = f"Speed-up over {baseline} in tokens (matched), by size and {budget}; {losses}."
    return Grid(title, ["optimizer", "size", *budgets], body)


def _trends(speedups: Sequence[Figure], baseline: str, losses: str) -> Grid:
    rows = []
    for name in sorted({each.cell.arm for each in speedups}, key=str.lower):
        own = [each for each in speedups if each.cell.arm == name]
        line, finer = trend(own), trend(own, over_cells=True)
        if line and finer:
            last, ahead = line.at(line.largest), line.at(FARTHEST * line.largest)
            projections = [f"{each} ({each.interval})" for each in (last, ahead)]
            low, high = line.interval
            change = "falls" if high < 0 else "rises" if low > 0 else "not shown"
            exponents = [str(line.points), _exponent(line), change, str(finer.points), _exponent(finer)]
            rows.append([name, *exponents, *projections])
    header = [
        "optimizer",
        "sizes",
        "exponent q",
        "with size it",
        "cells",
        "q over cells, if independent",
        "at the largest size",
    ]
    title = f"ln (speed-up over {baseline}) = p + q ln (parameters), 95 % intervals over sizes; {losses}."
    return Grid(title, [*header, f"PROJECTION: at {FARTHEST} times that"], rows)


def _exponent(line: Trend) -> str:
    return f"{line.exponent:+.3f} ({line.interval[0]:+.3f} to {line.interval[1]:+.3f})"
