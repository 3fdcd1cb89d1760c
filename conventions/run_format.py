"""The format of a run's folder, which harness writes and judge reads: schema, statuses, rows, and the lock."""

import fcntl
import json
import math
from pathlib import Path
from typing import Any, Literal

from conventions.form import short
from conventions.json_text import parse_json

SCHEMA = 1
Status = Literal["finished", "diverged", "failed", "running", "cut"]
ENDED = ("finished", "diverged")  # nothing is left to do
STATUSES = ("finished", "diverged", "failed", "running")  # as manifests say it; only a reader can see "cut"
RUNS = Path("results/runs")  # where train.py puts studies, below the folder that it runs in
# The three axes a loss is held against: what they are called here, and where a row keeps them (cumulative).
AXES = {"steps": "step", "flops": "flops/total", "seconds": "seconds/total"}


def is_locked(path: Path) -> bool:
    """Return whether a live process holds the run's lock. A shared lock is asked for and given back at once."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # held; or a file system without locks, where the manifest's word stands
    return False


def seen_status(folder: Path, status: Status) -> Status:
    """Return the manifest's word, but "cut" for a run that says "running" while nobody holds its lock."""
    return "cut" if status == "running" and not is_locked(folder / "run.lock") else status


def read_status(folder: Path) -> Status | None:
    """Return the status of the run in a folder; None while there is none, or nothing that reads."""
    try:
        manifest = parse_json((folder / "manifest.json").read_text(encoding="utf-8"))
        return seen_status(folder, manifest["status"]) if manifest["status"] in STATUSES else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, in order, two of one step merged; none where the file is not there.

    A kill can tear the last line, which is then ignored; any other line that is no JSON, or whose values are not
    numbers, is a ValueError that names the file and the line. What is not finite becomes None.
    """
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows  # killed before the first row
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        last = number == len(lines)  # what follows the last newline: nothing, or a torn row
        if not line.strip() and last:
            break
        try:
            row = parsed_row(line)
        except json.JSONDecodeError as error:
            if last:
                break
            raise _broken(path, number, first_line(error)) from None
        except ValueError as error:
            raise _broken(path, number, first_line(error)) from None
        if row.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"{path}, line {number}, is of schema {row['schema']!r} and this halfstep reads {SCHEMA}")
        step = row["step"]
        if rows and step < rows[-1]["step"]:
            raise ValueError(
                f"{path}, line {number}, goes back from step {rows[-1]['step']} to {step}: two programs "
                "wrote this run; move the folder away and train it again"
            )
        if rows and step == rows[-1]["step"]:
            rows[-1] |= row
        else:
            rows.append(row)
    return rows


def parsed_row(line: bytes) -> dict[str, Any]:
    """Return the row in a line of metrics.jsonl: its step is a count, every other value a number or null.

    Raises ValueError for any other line; JSONDecodeError, which is one, where it is no JSON.
    """
    row = parse_json(line, finite=True)
    if not isinstance(row, dict):
        raise ValueError("it holds no keys")
    step = row.get("step")
    if type(step) is not int or step < 0:
        raise ValueError(f"step is {short(step)}" if "step" in row else "no 'step'")
    for key, value in row.items():
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{key} must be a number or null, not {short(value)}")
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _broken(path: Path, number: int, why: str) -> ValueError:
    return ValueError(f"{path}, line {number}, is broken ({why}): cut the file there")


def first_line(error: BaseException) -> str:
    """Return an exception's text on one line, cut after 120 characters."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:120]
