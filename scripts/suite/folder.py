"""Where bench_suite keeps what it measured, so that the next call goes on from there, and the tables made from it."""

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conventions import atomic
from harness.origin import git_state, versions

Render = Callable[[Mapping[str, Any]], str]
Cell = str | Render


@dataclass(frozen=True)
class Deadline:
    """The end of a call. Nothing that would take longer is begun, and what still runs then is stopped."""

    minutes: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.begun + 60 * self.minutes - time.monotonic()

    def fits(self, seconds: float) -> bool:
        return seconds <= self.left


def _now() -> str:
    return datetime.now(UTC).isoformat()


@dataclass(frozen=True)
class Call:
    """What manifest.json tells of a call. device: as a run's manifest has it. git: commit, dirty."""

    part: str
    argv: Sequence[str]
    device: Mapping[str, Any]
    git: Mapping[str, Any]
    begun: str = field(default_factory=_now)

    def entry(self) -> dict[str, Any]:
        """As of now: `kept` is when it last wrote anything."""
        return {"part": self.part, "begun": self.begun, "kept": _now(), "argv": list(self.argv), **self.git}


@dataclass(frozen=True)
class Folder:
    """results/hardware/<device>/, or another."""

    path: Path
    call: Call | None = None  # none: nobody asks who measured
    again: bool = False  # what another commit measured is forgotten as it is read

    @contextmanager
    def held(self) -> Iterator[None]:
        """Two calls would lose one another's rounds, and be timed beside each other: ValueError for the second."""
        self.path.mkdir(parents=True, exist_ok=True)
        place = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.call:
                self._sign(self.call)
            yield
        except BlockingIOError:
            raise ValueError(f"{self.path} is another call's, which still runs: wait for its end") from None
        finally:
            os.close(place)

    def read(self, name: str, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What earlier calls left in a JSON file; an empty result where there is none.

        identity: what must be the same for two measurements to stand in one table. Raises ValueError where it is not.
        """
        file = self.path / name
        if not file.is_file():
            return {"schema": 1, "identity": dict(identity)}
        try:
            held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            known = held["identity"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{file} is none of bench_suite's: move it away, or give another --output") from None
        for key, value in json.loads(json.dumps(identity)).items():
            if known.get(key) != value:
                raise ValueError(
                    f"{file} was measured with {key}={known.get(key)} and not {value}: move it away, or "
                    "give another --output"
                )
        if self.again and self.call:
            now = self.call.git["commit"]
            lists = {key: rows for key, rows in held.items() if isinstance(rows, list)}
            held |= {key: [row for row in rows if row.get("commit") == now] for key, rows in lists.items()}
        return held

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Atomically, with the call that measured it in manifest.json: it may be cut off at any moment."""
        if self.call:
            self._sign(self.call)
        atomic.write_text(self.path / name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write_table(self, name: str, text: str) -> None:
        atomic.write_text(self.path / name, text)

    def _sign(self, call: Call) -> None:
        file = self.path / "manifest.json"
        held: dict[str, Any] = {"schema": 1, "calls": []}
        if file.is_file():
            try:
                held = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                raise ValueError(f"{file} is none of bench_suite's: move it away, or give another --output") from None
        calls = [each for each in held["calls"] if (each["part"], each["begun"]) != (call.part, call.begun)]
        held |= {"device": call.device, "versions": versions(), "git": call.git}
        held["calls"] = [*calls, call.entry()]
        atomic.write_text(file, json.dumps(held, indent=1) + "\n")


def commit_of(given: str | None) -> dict[str, Any]:
    """The tree's commit, and whether it differs from it; `given` stands for a copy of a tree that has no git."""
    state = git_state()
    return {"commit": given, "dirty": None} if state["commit"] is None and given else state


def commits(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which ones the rows were measured at."""
    return ", ".join(sorted({str(row["commit"] or "unknown")[:12] for row in rows})) or "none yet"


def folder_name(device: str) -> str:
    """A device's name as a folder's: nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def markdown(columns: Mapping[str, Cell], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table: by title a key of the rows, or how to show one of them. Numbers are shown as they are."""
    lines = [" | ".join(columns), " | ".join(["---"] * len(columns))]
    for row in rows:
        cells = [shown(row.get(cell)) if isinstance(cell, str) else cell(row) for cell in columns.values()]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def figure(key: str, digits: int = 0, scale: float = 1.0, unit: str = "") -> Render:
    """A number of a row, scaled, with so many digits; nothing where there is none."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(key)
        return "" if value is None else f"{scale * value:,.{digits}f}{unit}"

    return cell


def shown(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "/")
