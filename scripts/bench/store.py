"""The one store of what was measured: measurements.jsonl, to which lines are added and from which none is taken.

A line is a call of the bench, a round of a measurement, a failure, or the size of a pass that fits the memory. The key
of a round is (commit, device, what, round), and no key is measured twice. A kill costs the round that was running.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FILE = "measurements.jsonl"


@dataclass
class Record:
    """All lines of one measurement at one commit.

    Attributes:
        rounds: lines by number: `facts` has an answer for each side, `turns` a list of them.
        error: why it does not run.
        sizes: sequences per pass, by side, where beside the other one fewer fit the memory.
        head: part, about, and the sides' names.
    """

    what: str
    commit: str | None
    rounds: dict[int, Row] = field(default_factory=dict)
    error: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    head: Row = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.head |= {key: row[key] for key in ("part", "about", "sides")}
        self.sizes |= row.get("sizes_fit", {})
        self.error = row.get("error", self.error)
        if row["round"] is not None:
            self.rounds[row["round"]] = row

    def turns(self, side: int) -> list[list[Row]]:
        """The side's answers, by round."""
        return [self.rounds[number]["turns"][side] for number in sorted(self.rounds)]


class Store:
    """The file, in one call.

    Args:
        key: commit, dirty and device, which every line gets.
        again: what another commit measured does not count.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], again: bool = False) -> None:
        self.path, self.key, self.again = folder / FILE, dict(key), again
        self.rows = read(self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others out: two calls would be timed beside each other. ValueError for the second one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.path} is held by a call that still runs: wait for its end") from None
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # the next line would join what a kill has torn
            self.rows = read(self.path)
            yield

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line, and wait until the disk has it."""
        line = {**self.key, **row}
        with open(self.path, "ab") as file:
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(line)

    def record(self, what: str) -> Record:
        """What is known of a measurement; what failed at another commit is to be tried again."""
        now = self.key["commit"]
        found = records([row for row in self.rows if row["what"] == what and (not self.again or row["commit"] == now)])
        if found and (found[0].commit == now or not (found[0].error or found[0].sizes)):
            return found[0]
        return Record(what, now)


def read(path: Path) -> list[Row]:
    """The lines of a store; none where there is no file. A last line that a kill has torn is left out.

    Raises ValueError for a line that is none of the bench's.
    """
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        assert all(row["what"] and row["device"] for row in rows)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path} has a line that is none of the bench's: move it away, or give --output") from None
    return rows


def records(rows: Sequence[Row]) -> list[Record]:
    """A record for each measurement, in the order in which they were begun: of the commit that measured it last."""
    found: dict[str, Record] = {}
    for row in (row for row in rows if row["what"] != "call"):
        if row["what"] not in found or found[row["what"]].commit != row["commit"]:
            found[row["what"]] = Record(row["what"], row["commit"])
        found[row["what"]].add(row)
    return list(found.values())
