"""The one store of what was measured: measurements.jsonl, to which lines are added and from which none is taken.

A line is a call of the bench, a round of a measurement, a failure, or the size of a pass that fits the memory. The key
of a round is (commit, device, what, round), and no key is measured twice. A kill costs the round that was running.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judge.measurements import FILE, Record, read, records


class Store:
    """The file, in one call.

    Args:
        key: commit, dirty and device, which every line gets.
        again: what another commit measured does not count.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], again: bool = False) -> None:
        self.path, self.key, self.again = folder / FILE, dict(key), again
        self.lines = read(self.path)

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
            self.lines = read(self.path)
            yield

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, and wait until the disk has it."""
        line = {**self.key, **line}
        with open(self.path, "ab") as file:
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def record(self, what: str) -> Record:
        """Return what is known of a measurement; what failed at another commit is to be tried again."""
        now = self.key["commit"]
        lines = [each for each in self.lines if each["what"] == what]
        kept = records([each for each in lines if not self.again or each["commit"] == now])
        if kept and (kept[0].commit == now or not (kept[0].error or kept[0].sizes)):
            return kept[0]
        return Record(what, now)
