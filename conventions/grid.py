"""Tables of text, as Markdown, LaTeX and CSV: whatever the project writes or prints as a table is one."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$",
         "†": r"$\dagger$", "…": r"\ldots{}", "<": r"$<$", ">": r"$>$"}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table before it has a form."""

    title: str
    header: list[str]
    rows: list[list[str]]


def markdown(grid: Grid) -> str:
    lines = [grid.header, ["---"] * len(grid.header), *grid.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def latex(grid: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    body = [r"\hline", line(grid.header), r"\hline", *map(line, grid.rows), r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(grid.header)}}}", *body, r"\end{tabular}", ""])


def comma_separated(grid: Grid) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([grid.header, *grid.rows])
    return out.getvalue()
