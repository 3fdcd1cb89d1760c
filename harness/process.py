"""One program in a process of its own: begun, watched, asked to stop, and killed with all that it started.

    with Process([sys.executable, "train.py", "steps=10"], log=Path("train.log")) as process:
        ending = process.wait(timeout=60)
    print(ending.code, ending.last_words)

Every process that the project starts and waits for is one of these: runs of a sweep, sweeps, programs of others.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

GRACE = 10.0  # seconds between asking a process to stop and killing it: a run then loses what no checkpoint holds
POLL = 0.05  # seconds between two looks at a process
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None  # opened here: a forked process had better not
ERROR = re.compile(r"\w(Error|Exception)\b")  # a line that names what was raised


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: the exit status; None where a signal ended it.
        signal: the name of the signal that ended it.
        timed_out: whether it was stopped because its time was over.
        last_words: the last sentence of ours ("halfstep: ...", without that) in its log; for want of one the last line
            that names an error, or the last line at all.
    """

    code: int | None
    signal: str | None
    timed_out: bool
    last_words: str


class Process:
    """A program that runs in a session of its own and ends when this process does.

    As a context manager it is killed at the end of the block, with whatever it started.

    Args:
        line: the command line.
        log: the file to which it appends what it prints, errors too; None: it prints where this process does.
        environment: variables on top of this process's own.
        folder: where it runs; None: where this process does.
    """

    def __init__(
        self,
        line: Sequence[str],
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self.began = time.monotonic()
        self._asked = self._timed_out = False
        self._log_from = 0
        with ExitStack() as stack:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL}
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(log, "ab"))
                self._log_from = file.tell()
                streams |= {"stdout": file, "stderr": subprocess.STDOUT}
            # A session of its own: Ctrl-C in the terminal is for this process, which then sees to its children.
            self._process = subprocess.Popen(
                line, cwd=folder, env={**os.environ, **(environment or {})}, start_new_session=True,
                preexec_fn=_prepare(os.getpid()), **streams,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait until it ends, or stop it after so many seconds. Ctrl-C asks it to stop; a second one kills it."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.ended():
            try:
                left = None if end is None else max(0.0, end - time.monotonic())
                self._process.wait(left)
            except subprocess.TimeoutExpired:
                self._timed_out = True
                self.stop()
            except KeyboardInterrupt:
                if self._asked:
                    self.kill()
                self.ask_to_stop()
        return self.ending()

    def ask_to_stop(self) -> None:
        """Interrupt it as Ctrl-C would, once."""
        if not self._asked:
            self._asked = True
            self._process.send_signal(signal.SIGINT)

    def stop(self, grace: float = GRACE) -> None:
        """End it: ask, and if it has not ended after the seconds of grace, kill it."""
        try:
            self.ask_to_stop()
            until = time.monotonic() + grace
            while not self.ended() and time.monotonic() < until:
                time.sleep(POLL)
        finally:
            if not self.ended():
                self.kill()

    def kill(self) -> None:
        """Kill it and every process of its session, those too that have outlived it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def output(self) -> str:
        """What it has printed so far; nothing where it has no log."""
        if self.log is None:
            return ""
        with open(self.log, "rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def ending(self) -> Ending:
        """How it ended. Raises RuntimeError while it runs."""
        code = self._process.poll()
        if code is None:
            raise RuntimeError("the process still runs: wait for it")
        name = signal.Signals(-code).name if code < 0 else None
        how = f"killed by {name}" if name else f"ended with exit code {code}"
        return Ending(None if name else code, name, self._timed_out, _last_words(self.output()) or how)


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    ours = [line.removeprefix("halfstep: ") for line in lines if line.startswith("halfstep: ")]
    errors = [line for line in lines if ERROR.search(line)]
    return next((kind[-1] for kind in (ours, errors, lines) if kind), "")


def die_with_parent() -> None:
    """Let this process be ended with the one that started it: a run would hold its folder and its GPU unwatched."""
    if LIBRARY:
        LIBRARY.prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _prepare(parent: int) -> Callable[[], None]:
    """What the process does before its program begins."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell makes what it starts in the background deaf to it
        die_with_parent()
        if os.getppid() != parent:  # which died before this
            os._exit(128 + signal.SIGTERM)

    return prepare
