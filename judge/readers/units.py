"""The quantity that a column holds, and its unit: `val/loss=eval/loss,seconds=train_time`.

Rows get the keys and units of a run folder (losses in nats per token). Nothing is guessed: a column that no format and
no `--map` explains is not read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conventions.sentence import nearest
from judge.readers.log import Line, Log

# quantity: (key of the row, factor; None: see `_nats`)
QUANTITIES: dict[str, tuple[str, float | None]] = {
    "run": ("", 1.0),  # whose row it is, where a table holds several runs
    "step": ("step", 1.0),  # updates made so far
    "total": ("total", 1.0),  # updates planned
    "tokens": ("tokens", 1.0),  # trained on so far
    "lr": ("lr", 1.0),
    "train/loss": ("train/loss", 1.0),  # nats per token
    "val/loss": ("val/loss", 1.0),  # nats per token
    "val/bits": ("val/loss", math.log(2)),  # bits per token
    "val/bpb": ("val/loss", None),  # bits per byte: takes the bytes of a token
    "val/ppl": ("val/loss", None),  # perplexity per token
    "seconds": ("seconds/total", 1.0),  # of training alone, cumulative
    "milliseconds": ("seconds/total", 1e-3),
    "hours": ("seconds/total", 3600.0),
    "elapsed": ("seconds/elapsed", 1.0),  # seconds with evaluation and everything else: kept, never compared
}
VALIDATION = tuple(key for key in QUANTITIES if key.startswith("val/"))
TRAINING_CLOCK = ("seconds", "milliseconds", "hours")
NOTHING = {"", "n/a", "na", "none", "null", "-"}


@dataclass(frozen=True)
class LoggedRow:
    """One line of a log in the keys and units of a run folder."""

    number: int  # of the line; 0 where the source has none
    values: dict[str, float]
    line: Line


def parse_map(texts: Sequence[str]) -> dict[str, str]:
    """Return {quantity: column} from `quantity=column,quantity=column`; a column's name may hold commas and signs."""
    names = "|".join(sorted(map(re.escape, QUANTITIES), key=len, reverse=True))
    chosen: dict[str, str] = {}
    for pair in [each for text in texts for each in re.split(rf",(?=(?:{names})=)", text)]:
        quantity, equals, column = pair.partition("=")
        if quantity not in QUANTITIES:
            raise ValueError(f"--map {pair}: {quantity!r} is nothing that a run keeps; {nearest(quantity, QUANTITIES)}")
        if not equals or not column:
            raise ValueError(f"--map {pair}: give {quantity}=COLUMN")
        chosen[quantity] = column
    return chosen


def meaning_of(log: Log, chosen: Mapping[str, str], bytes_per_token: float | None) -> dict[str, str]:
    """Return {quantity: column} of a log: what its format fixes, and what a person chose in its place.

    Raises ValueError where a column is not there, or the step, the validation loss or a unit is not known.
    """
    own = dict(log.meaning)
    for group in (VALIDATION, TRAINING_CLOCK):
        if set(group) & set(chosen):
            own = {quantity: column for quantity, column in own.items() if quantity not in group}
    meaning = {**own, **chosen}
    columns = log.columns
    for quantity, column in chosen.items():
        if column not in columns:
            raise ValueError(f"{log.source.path} has no column {column!r} for {quantity}: {nearest(column, columns)}")
    meaning = {quantity: column for quantity, column in meaning.items() if column in columns}
    known = [quantity for quantity in VALIDATION if quantity in meaning]
    if "step" not in meaning or not known:
        missing = " and ".join(["step"] * ("step" not in meaning) + ["validation loss"] * (not known))
        listed = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
        raise ValueError(
            f"{log.source.path} does not say what its {missing} is: give --map step=COLUMN,val/loss=COLUMN "
            f"(or val/bpb=, val/bits=, val/ppl=); its columns are {listed or 'none'}"
        )
    for group, what in ((VALIDATION, "validation loss"), (TRAINING_CLOCK, "clock")):
        both = [quantity for quantity in group if quantity in meaning]
        if len(both) > 1:
            raise ValueError(f"{' and '.join(both)} are both of {log.source.path}, which has one {what}: choose one")
    if bytes_per_token is not None and not 0 < bytes_per_token < math.inf:
        raise ValueError(f"--bytes-per-token {bytes_per_token:g}: a token has a number of bytes above 0")
    if "val/bpb" in meaning and bytes_per_token is None:
        raise ValueError(
            f"{log.source.path} gives bits per byte ({meaning['val/bpb']}): give --bytes-per-token, the mean bytes "
            "of a token in its validation text (nats per token = bits per byte x ln 2 x bytes per token)"
        )
    return meaning


def rows_of(log: Log, meaning: Mapping[str, str], bytes_per_token: float | None = None) -> dict[str, list[LoggedRow]]:
    """Return {run: rows in the order of the log}; the run is "" unless a column names it. No step, no row.

    Raises ValueError with the file and the line of what is no number, or no step.
    """
    by_run: dict[str, list[LoggedRow]] = {}
    for line in log.lines:
        values: dict[str, float] = {}
        for quantity, column in meaning.items():
            if quantity != "run" and (value := _number(log, line, column)) is not None:
                key, factor = QUANTITIES[quantity]
                if quantity == "val/ppl" and value <= 0:
                    raise ValueError(f"{log.at(line.number)}: {column} is {value:g}, and a perplexity is above 0")
                values[key] = value * factor if factor is not None else _nats(quantity, value, bytes_per_token)
        step = values.get("step")
        if step is None or not {"val/loss", "train/loss"} & set(values):
            continue
        if not math.isfinite(step) or step < 0 or step != int(step):
            raise ValueError(f"{log.at(line.number)}: step is {step:g}, which is no number of updates")
        run = str(line.values.get(meaning["run"], "")) if "run" in meaning else ""
        by_run.setdefault(run, []).append(LoggedRow(line.number, values, line))
    return by_run


def _nats(quantity: str, value: float, bytes_per_token: float | None) -> float:
    """Return a validation loss in nats per token."""
    if quantity == "val/ppl":
        return math.log(value)
    assert bytes_per_token
    return value * math.log(2) * bytes_per_token


def _number(log: Log, line: Line, column: str) -> float | None:
    value: Any = line.values.get(column)
    if value is None or isinstance(value, float):
        return value
    if str(value).strip().lower() in NOTHING:
        return None
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{log.at(line.number)}: {column} is {str(value)[:40]!r}, which is no number") from None
