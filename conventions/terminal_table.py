"""Tables in a terminal: a Grid, drawn by rich as wide as the terminal, or in full where the output is no terminal."""

from collections.abc import Collection, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conventions.grid import Grid

WIDE = 300  # columns of a file or a pipe, which has no edge at which to break names
NARROW = 12  # columns that a word of text gets before it is broken; a number is never broken
NOTHING: Mapping[str, str] = {}


def console() -> Console:
    """Return the console of standard output."""
    own = Console()
    return own if own.is_terminal else Console(width=WIDE)


def terminal_table(grid: Grid, left: Collection[str] = (), colors: Mapping[str, str] = NOTHING) -> Table:
    """Return a grid as rich prints it. A row without cells draws a line across.

    Args:
        left: the columns of text, which are set to the left; so is the first one. The others are set to the right.
        colors: rich's styles of lines in cells, by the line up to a comma. Without one, later lines of a cell are dim.
    """
    title = Text(grid.title, "table.title") if grid.title else None
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, name in enumerate(grid.header):
        words = " ".join([name, *(row[number] for row in grid.rows if number < len(row))]).split()
        longest, text = max(map(len, words), default=0), number == 0 or name in left
        width = min(longest, NARROW) if text else longest
        table.add_column(name, justify="left" if text else "right", overflow="fold", min_width=width)
    for row in grid.rows:
        table.add_row(*(_cell(cell, colors) for cell in row)) if row else table.add_section()
    return table


def table_text(grid: Grid, left: Collection[str] = ()) -> str:
    """Return a grid as text of the terminal's width."""
    place = console()
    with place.capture() as drawn:
        place.print(terminal_table(grid, left))
    return "\n".join(line.rstrip() for line in drawn.get().splitlines()).strip("\n")


def _cell(text: str, colors: Mapping[str, str]) -> Text:
    lines = [(line, colors.get(line.partition(",")[0].removesuffix(" †"), "")) for line in text.split("\n")]
    return Text("\n").join(Text(line, style or "dim" * (number > 0)) for number, (line, style) in enumerate(lines))
