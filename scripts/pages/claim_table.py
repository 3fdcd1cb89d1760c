"""Lays out what came of a claim in tables: for the terminal, Markdown, LaTeX and CSV."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conventions import quantity
from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.claims.claim import Claim
from judge.claims.numbers import HEADER, numbers
from judge.claims.others import number
from judge.claims.verdict import Verdict
from judge.claims.words import came_out, claimed, estimate, notes, others_lines, ours, runs_of, summary
from scripts.pages.grid import Grid, comma_separated, latex, markdown

FORMATS = ("markdown", "latex", "csv")
COLORS = {"reproduced": "green", "refuted": "red", "not seen at this scale": "yellow", "underpowered": "dim"}
PAPER = ", paper"  # ends the heading of a column of the paper's figures; ours is the next


def arms_grid(verdict: Verdict) -> Grid:
    """Make a line for each part and arm: the final loss at T, other quantities, and the paper's figures beside them."""
    header = ["part", "arm", "runs", "final loss"]
    cited = {figure.quantity for figure in verdict.claim.figures}
    shown = {k: q for k, q in verdict.claim.quantities.items() if k in cited or q.metric != "val/loss" or q.exponential}
    for name, each in shown.items():
        header += [each.title + PAPER, "ours"] if name in cited else [each.title]
    rows = []
    for part, arm in verdict.every_arm:
        length = verdict.scale.length(part)
        losses = arm.losses(length)
        spread = float(losses.std(ddof=1)) if len(losses) > 1 else None
        row = [part, arm.label, runs_of(verdict, part, arm),
               quantity.loss(float(losses.mean()), spread) if len(losses) else "none"]  # fmt: skip
        for name, each in shown.items():
            figure = verdict.paper_figure(part, arm.label, name)
            theirs = f"{figure.value:,g}{'*' * figure.recalled}" if figure else ""
            row += [theirs, ours(arm, length, each)] if name in cited else [ours(arm, length, each)]
        rows.append(row)
    lengths = {part: f"{verdict.scale.length(part):,}" for part in verdict.parts}
    alike = len(set(lengths.values())) == 1
    updates = lengths[verdict.parts[0]] if alike else ", ".join(f"{each} ({part})" for part, each in lengths.items())
    return Grid(f"The runs, at T = {updates} updates", header, rows)


def statements_grid(verdict: Verdict) -> Grid:
    """Make a line for each part and statement: what was claimed, what came out with its 95 % interval, the verdict."""
    speedups = any(each.statement.measure == "speedup" for each in verdict.findings)
    others = any(each.statement.measure != "speedup" for each in verdict.findings)
    columns = [*(AXES if speedups else []), *([""] if others else [])]
    rows = []
    for each in verdict.findings:
        cells = [estimate(verdict, each, axis) for axis in columns]
        head = [each.part or "across", each.statement.says, claimed(verdict, each.statement)]
        rows.append([*head, *cells, each.verdict])
    header = ["part", "statement", "claimed", *(TITLE.get(column, "measured") for column in columns), "verdict"]
    return Grid("The statements, with 95 % intervals; the first of each part decides", header, rows)


def others_grid(claim: Claim) -> Grid:
    """Make a line for each of others' findings; none where the claim's file knows of none."""
    header = ["what others measured", "where", "figure", "source"]
    return Grid("What others measured", header, [[o.says, o.where, number(claim, o), o.source] for o in claim.others])


def grids(verdict: Verdict) -> list[Grid]:
    """Make the tables of a claim's page; what others measured comes last, where there is any."""
    others = others_grid(verdict.claim)
    return [arms_grid(verdict), statements_grid(verdict), *([others] if others.rows else [])]


def overview(verdicts: Sequence[Verdict]) -> Grid:
    """Make a line for each claim, scale and part: the statement that decides, and what came of it."""
    rows = []
    for verdict in verdicts:
        for each in verdict.deciding:
            name = f"{verdict.claim.name}, {verdict.scale.name}"
            statement = f"{each.statement.says} ({claimed(verdict, each.statement)})"
            rows.append([name, each.part or "across", statement, came_out(verdict, each), each.verdict])
    return Grid("Claims, with 95 % intervals", ["claim, scale", "part", "claimed", "came out", "verdict"], rows)


def show(verdict: Verdict, console: Console) -> None:
    """Print a verdict in the terminal: warnings in red on top, the tables, the verdict, and the notes."""
    claim = verdict.claim
    console.print(f"{claim.name}, scale {verdict.scale.name}", style="bold", highlight=False, markup=False)
    console.print(f"{claim.sentence} ({claim.source})", highlight=False, markup=False)
    for warning in verdict.warnings:
        console.print(f"warning: {warning}", style="bold red", highlight=False, markup=False)
    for grid in (_narrow(arms_grid(verdict)), _narrow(statements_grid(verdict))):
        table = Table(title=Text(grid.title, "table.title"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in grid.header:
            text = name in ("part", "arm", "statement", "verdict")
            room = {"statement": 12, "verdict": 12}.get(name)  # before a word is broken
            table.add_column(name, justify="left" if text else "right", overflow="fold", min_width=room)
        for row in grid.rows:
            table.add_row(*(Text(cell, COLORS.get(cell, "")) for cell in row))
        console.print(table)
    if claim.others:
        console.print("What others measured", style="italic", highlight=False)
    for line in others_lines(claim):
        console.print(f"- {line}", highlight=False, markup=False)
    console.print()
    for line in summary(verdict):
        console.print(line, style="bold" if line.endswith(tuple(COLORS)) else "", highlight=False, markup=False)
    for note in notes(verdict):
        console.print(f"- {note}", style="dim", highlight=False, markup=False)


def render(verdict: Verdict, form: str) -> str:
    """Write the tables as text of one of FORMATS; CSV has a line for each number, and nothing beside them."""
    if form == "csv":
        return comma_separated(Grid(verdict.claim.name, HEADER, numbers(verdict)))
    if form == "latex":
        remarks = [*(f"warning: {warning}" for warning in verdict.warnings), *summary(verdict), *notes(verdict)]
        return "\n".join([*(f"% {remark}" for remark in remarks), *map(latex, grids(verdict))])
    head = f"**{verdict.claim.name}, scale {verdict.scale.name}.** {verdict.claim.sentence} ({verdict.claim.source})"
    warnings = [f"- **warning: {warning}**" for warning in verdict.warnings]
    again = f"`python -m scripts.claims run {verdict.claim.word} --scale {verdict.scale.name}` makes the runs again"
    tail = [f"- {line}" for line in [*summary(verdict), *notes(verdict), again]]
    parts = [head, *(["\n".join(warnings)] if warnings else []), *map(markdown, grids(verdict)), "\n".join(tail)]
    return "\n\n".join(parts) + "\n"


def _narrow(grid: Grid) -> Grid:
    """Make a table narrow: the claimed figure goes below the statement, the paper's and the interval below ours."""
    header, *rows = [list(line) for line in (grid.header, *grid.rows)]
    for i in reversed(range(len(header))):
        if header[i] == "claimed":
            del header[i]
            for row in rows:
                claimed_figure = row.pop(i)
                row[i - 1] += f"\n({claimed_figure})"
                row[i:] = [cell.replace(" (", "\n", 1).rstrip(")") for cell in row[i:]]
        elif header[i].endswith(PAPER):
            header[i : i + 2] = [header[i].removesuffix(PAPER)]
            for row in rows:
                theirs, ours = row[i : i + 2]
                row[i : i + 2] = [f"{ours}\npaper {theirs}" if theirs else ours]
    return Grid(grid.title, header, rows)
