"""Shows what came of a claim in the terminal."""

from rich.console import Console

from conventions.grid import Grid
from conventions.terminal_table import terminal_table
from judge.claims.tables import PAPER, arms_grid, statements_grid
from judge.claims.verdict import Verdict
from judge.claims.words import notes, others_lines, summary

COLORS = {"reproduced": "green", "refuted": "red", "not seen at this scale": "yellow"}
COLORS |= {"not seen in these runs": "yellow", "underpowered": "dim"}


def show(verdict: Verdict, console: Console) -> None:
    """Print a verdict in the terminal: warnings in red on top, the tables, the verdict, and the notes."""
    claim = verdict.claim
    console.print(f"{claim.name}, scale {verdict.scale.name}", style="bold", highlight=False, markup=False)
    console.print(f"{claim.sentence} ({claim.source})", highlight=False, markup=False)
    for warning in verdict.warnings:
        console.print(f"warning: {warning}", style="bold red", highlight=False, markup=False)
    for grid in (_narrow(arms_grid(verdict)), _narrow(statements_grid(verdict))):
        console.print(terminal_table(grid, ("arm", "statement", "verdict"), COLORS))
    if claim.others:
        console.print("What others measured", style="italic", highlight=False)
    for line in others_lines(claim):
        console.print(f"- {line}", highlight=False, markup=False)
    console.print()
    for line in summary(verdict):
        console.print(line, style="bold" if line.endswith(tuple(COLORS)) else "", highlight=False, markup=False)
    for note in notes(verdict):
        console.print(f"- {note}", style="dim", highlight=False, markup=False)


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
