"""Programs of others that time themselves. One starts anew for every turn, which takes a minute and more."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.process import die_with_parent

ROUNDS = 2  # turns of each, every other round of the sides
SECONDS, MOST = 180, 300  # that must be left for one, and that it has: what hangs must not take every call


@dataclass(frozen=True)
class Program:
    """One that is timed beside the sides.

    Attributes:
        name: of its file.
        system, variant: its rows' names.
        model: the file of configs/model that has its numbers, which are fixed in it.
        rate: tokens per second, of sequences per pass, a folder of its own and the seconds that it may take. Raises
            TimeoutError after these, ValueError with its last words where it ends before.
        micro_batch: sequences per pass that it takes by itself.
        as_loop: whether it can take as many as the plain side of the same system does instead.
    """

    name: str
    system: str
    variant: str
    model: str
    rate: Callable[[int, Path, float], float]
    micro_batch: int
    as_loop: bool = False


ERROR = re.compile(r"\w(Error|Exception)\b|^Stop\w+")


class Reader:
    """Its lines, as it prints them, errors too; it is killed after so many seconds, or at the end of the `with`.

    The line that would have come too late raises TimeoutError. said: the last line that names an error, or the last.
    """

    def __init__(self, words: list[str], folder: Path, seconds: float, environment: dict[str, str]) -> None:
        self.said = ""
        self._over = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-u", *words], cwd=folder, env={**os.environ, **environment}, text=True,
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
        )  # fmt: skip
        self._late = threading.Timer(seconds, self._stop)
        self._late.start()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._late.cancel()
        self._kill()
        self._process.wait()

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout
        for line in self._process.stdout:
            self.said = line.strip() if ERROR.search(line) or not ERROR.search(self.said) else self.said
            yield line
        if self._over.is_set():
            raise TimeoutError

    def _stop(self) -> None:
        self._over.set()
        self._kill()

    def _kill(self) -> None:
        """With the processes that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
