"""The common type of all readers: what one source logged, line by line, in the trainer's own names and units."""

import bz2
import gzip
import hashlib
import importlib
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

Value = float | str
OPEN: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Source:
    """The file that numbers come from, with its checksum, so that anyone can check that it is the same."""

    path: str  # as it was given
    format: str
    sha256: str


@dataclass(frozen=True)
class Line:
    """The values logged at one moment. `number` counts from 1 in the file; 0 where the source has no lines."""

    number: int
    values: dict[str, Value]


@dataclass(frozen=True)
class Log:
    """Lines in the order of the source: of one run, or of several where it holds several."""

    name: str
    source: Source
    lines: Sequence[Line]
    meaning: dict[str, str] = field(default_factory=dict)  # quantity of units.py: column, where the format fixes it
    config: dict[str, Any] = field(default_factory=dict)  # what the source tells of the run's settings
    notes: tuple[str, ...] = ()
    cut: str = ""  # why it is not the whole of its last run, where the source tells that
    remarks: bool = False  # whether further columns are a trainer's remarks on a line

    @property
    def columns(self) -> list[str]:
        """Return the names of all columns, in order of appearance."""
        return list(dict.fromkeys(column for line in self.lines for column in line.values))

    def at(self, number: int) -> str:
        """Write the place of a line for use in a sentence: `a.log, line 12`."""
        return f"{self.source.path}, line {number}" if number else self.source.path


def is_loss(column: str) -> bool:
    """Return whether a column's name is that of a validation loss."""
    return column.startswith(("val_", "val/", "eval_", "eval/", "validation/")) and column.endswith("loss")


def by_step(values: Iterable[tuple[float, float, str, float]]) -> list[Line]:
    """Return the lines of what was logged name by name, as (seconds, step, name, value): one line for a step.

    Where the step of some name goes back with time, a run was resumed, and the lines are in the order of time.
    """
    events = sorted(values, key=lambda event: event[0])  # stable: what has one moment keeps its order
    start = events[0][0] if events else 0.0
    steps: dict[str, list[float]] = {}
    for _, step, name, _ in events:
        steps.setdefault(name, []).append(step)
    if all(before < after for own in steps.values() for before, after in pairwise(own)):
        events.sort(key=lambda event: event[1])
    lines: list[Line] = []
    for moment, step, name, value in events:
        if not lines or lines[-1].values["step"] != step or name in lines[-1].values:
            lines.append(Line(0, {"step": float(step)}))
        lines[-1].values.update({"wall_time": moment - start, name: value})
    return lines


def source_of(path: Path, format: str) -> Source:
    return Source(str(path), format, hashlib.sha256(path.read_bytes()).hexdigest())


def plain_suffix(path: Path) -> str:
    """Return the ending of a file's name without that of its compression: `.csv` for a.csv.bz2."""
    suffixes = [each.lower() for each in path.suffixes]
    return next((each for each in reversed(suffixes) if each not in OPEN), "")


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file, unpacked where its name ends with .gz, .bz2 or .xz."""
    try:
        data = OPEN[path.suffix.lower()](path).read() if path.suffix.lower() in OPEN else path.read_bytes()
        text = data.decode("utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}, is not UTF-8 text: is it a log at all?") from None
    except (EOFError, OSError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        raise ValueError(f"{path} cannot be unpacked ({error}): copy it again") from None
    return text


def optional(module: str, remedy: str) -> Any:
    """Return an optional package's module, imported when it is needed; its absence is one sentence."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{remedy}: pip install {module.split('.')[0]} ({error})") from None
