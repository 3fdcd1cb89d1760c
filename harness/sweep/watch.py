"""The progress of runs, read from their folders alone: a live table in a terminal, lines elsewhere.

    with LiveTable() as watch:
        while ...:
            watch.show(lambda: [row_of(name, reader.read()) for name, reader in readers.items()])

Every byte of a metrics.jsonl is read once, so that watching a hundred long runs costs next to nothing.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from conventions import quantity
from conventions.form import is_a
from conventions.grid import Grid
from conventions.json_text import parse_json
from conventions.run_format import Status, parsed_row, seen_status
from conventions.terminal import one_line
from conventions.terminal_table import terminal_table
from conventions.yaml_file import read_yaml

EVERY = 1.0  # seconds between two looks at the folders
LINE_EVERY = 30.0  # seconds, at least, between two lines of one run that say no more than that it goes on
COLORS = {"finished": "green", "running": "cyan", "cut": "yellow", "diverged": "red", "failed": "red", "queued": "dim"}
# What a person wants to see first, where there is no room for all.
ORDER = ("failed", "diverged", "cut", "running", "finished", "queued")


@dataclass(frozen=True)
class RunRow:
    """A row on one run: its status, progress, loss and speed."""

    name: str
    status: str  # a run's, or queued
    step: int = 0
    steps: int | None = None
    loss: float | None = None  # nats per token: the newest on the validation windows, or else on a batch
    speed: float | None = None  # tokens per second
    left: float | None = None  # seconds
    spent: float | None = None  # seconds of training, as the comparisons count them

    @property
    def progress(self) -> str:
        return "" if self.steps is None else f"{self.step:,}/{self.steps:,}"

    def cells(self) -> list[str]:
        """Return the cells of step, loss, tokens per second and time left."""
        return [
            self.progress,
            "" if self.loss is None else quantity.loss(self.loss),
            "" if self.speed is None else f"{self.speed:,.0f}",
            "" if self.left is None else quantity.seconds(self.left),
        ]

    def line(self) -> str:
        step, loss, speed, left = self.cells()
        parts = [f"{self.name}  {self.status}", step and f"step {step}", loss and f"loss {loss}"]
        if self.status == "running":
            parts += [speed and f"{speed} tokens/s", left and f"{left} left"]
        return "  ".join(part for part in parts if part)


@dataclass(frozen=True)
class RunProgress:
    """The progress of one run, as its folder tells it."""

    name: str
    status: Status
    steps: int  # planned, in updates
    newest: dict[str, Any]  # of every metric the newest value that is not null

    @property
    def step(self) -> int:
        """Return the updates made so far."""
        return int(self.newest.get("step", 0))

    @property
    def last_loss(self) -> float | None:
        """Return the newest validation loss, or for want of one the newest training loss; nats per token."""
        return self.newest.get("val/loss", self.newest.get("train/loss"))

    @property
    def time_left(self) -> float | None:
        """Return the seconds until a running run ends, at its pace so far; None where that is unknown."""
        spent = [self.newest.get(f"seconds/{part}", 0.0) for part in ("total", "evaluate", "checkpoint")]
        if self.status != "running" or not self.step or not any(spent):
            return None
        return sum(spent) / self.step * (self.steps - self.step)


def row_of(name: str, run: RunProgress | None, status: str | None = None) -> RunRow:
    """Return a run's row; `status` is what whoever launched it knows better than its folder."""
    if run is None:
        return RunRow(name, status or "queued")
    status = status or run.status
    going = status == "running"
    speed = run.newest.get("throughput/tokens_per_second") if going else None
    left = run.time_left if going else None
    return RunRow(name, status, run.step, run.steps, run.last_loss, speed, left, run.newest.get("seconds/total"))


class RunReader:
    """One run's folder, read as it grows: its rows folded into one that holds the newest of every value."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._steps: int | None = None
        self._newest: dict[str, Any] = {}
        self._file, self._read = 0, 0  # which metrics.jsonl, and how many bytes of it

    def read(self) -> RunProgress | None:
        """Return the run as it stands; None while there is none, or nothing that reads."""
        try:
            if self._steps is None:
                steps = read_yaml(self.folder / "config.yaml")["steps"]
                if not is_a(steps, float):
                    return None
                self._steps = int(steps)
            manifest = parse_json((self.folder / "manifest.json").read_text())
            self._fold()
            status = seen_status(self.folder, manifest["status"])
            name = str(manifest.get("name") or self.folder.name)
            return RunProgress(name, status, self._steps, self._newest) if status in COLORS else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _fold(self) -> None:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return  # no row yet
        with open(path, "rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file:  # another file has replaced it: the run went back to a checkpoint
                self._newest, self._file, self._read = {}, number, 0
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.splitlines():
            self._newest |= {key: value for key, value in parsed_row(line).items() if value is not None}
        self._read += len(whole) + len(newline)


class LiveTable:
    """Shows rows of runs over and over, on stdout; `say` puts a line between."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=False)
        self._next = 0.0
        self._shown: dict[str, tuple[str, str, float]] = {}  # name: status, line, when

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, rows: Callable[[], Sequence[RunRow]], now: bool = False) -> None:
        """Look again, if a look is due or must be `now`."""
        if time.monotonic() < self._next and not now:
            return
        self._next = time.monotonic() + EVERY
        current = rows()
        if self._live:
            self._live.update(self._fitting(current), refresh=True)
        else:
            self._lines(current)

    def say(self, text: str) -> None:
        """Print one line on stderr, and leave the table whole."""
        print(one_line(text), file=sys.stderr, flush=True)  # Live puts what is printed above itself

    def _fitting(self, rows: Sequence[RunRow]) -> Table:
        """Return the table, without what the terminal has no lines for."""
        room = max(self.console.height - 6, 1)
        kept = set(sorted(range(len(rows)), key=lambda i: (ORDER.index(rows[i].status), i))[:room])
        table = runs_table([row for i, row in enumerate(rows) if i in kept], live=True)
        table.caption, table.caption_justify = tally(rows), "left"
        return table

    def _lines(self, rows: Sequence[RunRow]) -> None:
        """Print a line for each run that has something new to say; that it goes on is news at times only."""
        now = time.monotonic()
        for row in rows:
            status, line, when = self._shown.get(row.name, ("queued", "", -LINE_EVERY))
            if row.status != status or (row.line() != line and row.status == "running" and now - when >= LINE_EVERY):
                self._shown[row.name] = (row.status, row.line(), now)
                print(row.line(), flush=True)


def runs_table(rows: Sequence[RunRow], live: bool = False) -> Table:
    """Return a line for each run: live, with its speed, and at rest with the seconds that it has trained for."""
    header = ["run", "status", "step", "loss", *(("tokens/s", "left") if live else ("left", "seconds"))]
    body = []
    for row in rows:
        step, loss, speed, left = row.cells()
        spent = "" if row.spent is None else quantity.seconds(row.spent)
        body.append([row.name, row.status, step, loss, *((speed, left) if live else (left, spent))])
    return terminal_table(Grid("", header, body), ("status",), COLORS)


def tally(rows: Sequence[RunRow]) -> str:
    """Count runs by their status: `12 finished, 2 running, 4 queued`."""
    counts = {status: sum(row.status == status for row in rows) for status in reversed(ORDER)}
    return ", ".join(f"{count} {status}" for status, count in reversed(counts.items()) if count)
