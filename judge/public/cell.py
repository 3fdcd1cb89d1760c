"""The table that results/public keeps of a study of others: final losses, by arm, size and length. Numbers only.

    cells = read_cells(Path("results/public/wen2025.csv"))

`losses` are those of the chosen configuration, one for each seed. `lowest` is the lowest loss of all trials of that arm
in that cell, where there were several: lower than a fresh run of the same configuration would be, for it was chosen
by the loss that it shows.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Choice = Literal["chosen", "lowest"]
HEADER = ["arm", "size", "parameters", "budget", "tokens", "updates", "losses", "lowest", "trials", "source", "sha256"]


@dataclass(frozen=True)
class Cell:
    """The final losses of an arm at one size and one length, nats per token."""

    arm: str
    size: str  # as the source calls it
    parameters: float
    tokens: int
    losses: tuple[float, ...]  # one for each seed; empty where the source does not tell that of its choice
    budget: str = ""  # as the source calls it
    updates: int | None = None
    lowest: float | None = None  # of all trials
    trials: int = 1  # configurations that were tried in this cell
    source: str = ""  # file or files, below the folder of the study
    sha256: str = ""  # of the file; of several, of their checksums' lines as sha256sum prints them

    def by(self, choice: Choice) -> "Cell | None":
        """Return the cell with the losses of that choice; None where the source does not tell them."""
        if choice == "lowest" and self.lowest is not None:
            return replace(self, losses=(self.lowest,))
        return self if self.losses else None


def write_cells(cells: Sequence[Cell]) -> str:
    """Write the table as CSV; losses have seven digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for each in cells:
        losses = " ".join(f"{loss:.7g}" for loss in each.losses)
        lowest = "" if each.lowest is None else f"{each.lowest:.7g}"
        place = [each.arm, each.size, f"{each.parameters:.10g}", each.budget, each.tokens, each.updates or ""]
        writer.writerow([*place, losses, lowest, each.trials, each.source, each.sha256])
    return out.getvalue()


def read_cells(path: Path) -> list[Cell]:
    """Read the table back. Raises ValueError with the line where one is broken."""
    cells = []
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    if reader.fieldnames != HEADER:
        raise ValueError(f"{path} is no table of cells, whose columns are {', '.join(HEADER)}: make public writes it")
    for row in reader:
        try:
            cells.append(
                Cell(
                    row["arm"],
                    row["size"],
                    float(row["parameters"]),
                    int(row["tokens"]),
                    tuple(map(float, row["losses"].split())),
                    row["budget"],
                    int(row["updates"]) if row["updates"] else None,
                    float(row["lowest"]) if row["lowest"] else None,
                    int(row["trials"]),
                    row["source"],
                    row["sha256"],
                )
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}, is broken ({error}): make public writes it") from None
    return cells
