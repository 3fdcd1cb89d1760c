"""One program in a process of its own: begun, watched, asked to stop, and killed with all that it started.

    with Process([sys.executable, "train.py", "steps=10"], log=Path("train.log")) as process:
        ending = process.wait(timeout=60)
    print(ending.code, ending.last_words)

Every program that may run long is one of these: runs of a sweep, sweeps, programs of others, and workers that
answer questions (`Conversation`). Commands that answer at once (git, squeue) are called by subprocess.run.
"""

import ctypes
import json
import os
import re
import select
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
POLL, LOOK = 0.05, 1.0  # seconds between two looks at a process: at one that was asked to stop, and at others
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None  # opened here: a forked process had better not
ERROR = re.compile(r"\w(Error|Exception)\b")  # a line that names what was raised


@dataclass(frozen=True)
class Ending:
    """The end of a process: its exit status or signal, and its last words.

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
    """A program that runs apart from this terminal and ends when this process does.

    As a context manager it is killed at the end of the block, with whatever it started.

    Args:
        line: the command line.
        log: the file to which it appends what it prints, errors too; None: it prints where this process does.
        environment: variables on top of this process's own.
        folder: where it runs; None: where this process does.
    """

    talks = False  # whether its standard input and output are pipes to this process

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
            if self.talks:
                streams |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
                if log is not None:
                    streams["stderr"] = file
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
        """Seconds since the process began."""
        return time.monotonic() - self.began

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout: float | None = None, done: Callable[[], bool] | None = None) -> Ending:
        """Wait until it ends, or stop it after so many seconds. Ctrl-C asks it to stop; a second one kills it.

        done: looked at every second; once it holds, the process has GRACE to end by itself, and is then killed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        idle_since: float | None = None
        while not self.ended():
            try:
                self._process.wait(LOOK if end is None else min(LOOK, max(0.0, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                if idle_since is None and done and done():
                    idle_since = time.monotonic()
                if idle_since is not None and time.monotonic() >= idle_since + GRACE:
                    self.kill()
                elif end is not None and time.monotonic() >= end:
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
        """Return the text that the process has printed so far; nothing where it has no log."""
        if self.log is None:
            return ""
        with open(self.log, "rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def ending(self) -> Ending:
        """Return how the process ended. Raises RuntimeError while it runs."""
        code = self._process.poll()
        if code is None:
            raise RuntimeError("the process still runs: wait for it")
        name = signal.Signals(-code).name if code < 0 else None
        how = f"killed by {name}" if name else f"ended with exit code {code}"
        return Ending(None if name else code, name, self._timed_out, _last_words(self.output()) or how)


class Conversation(Process):
    """A process that answers questions: a line of JSON on its standard input, a line on its standard output.

    What it prints besides goes to its log where it moves that to standard error, as `answer` does.
    """

    talks = True

    def ask(self, question: Any) -> None:
        """Put a question; `hear` has its answer, in the order in which they were put."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has died, which `hear` finds
            self._process.stdin.write((json.dumps(question) + "\n").encode())
            self._process.stdin.flush()

    def hear(self, timeout: float | None = None) -> Any:
        """Return the next answer.

        Raises:
            TimeoutError: there was none for so many seconds.
            ValueError: the process has ended; its last words.
        """
        assert self._process.stdout
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._heard:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError
            more = os.read(self._process.stdout.fileno(), 2**16)
            if not more:
                self._process.wait()
                raise ValueError(self.ending().last_words)
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        super().kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    _heard = b""


def answer(reply: Callable[[Any], Any]) -> None:
    """Be the other side of a `Conversation`: answer each question, until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody else prints is no answer
    for line in sys.stdin:
        print(json.dumps(reply(json.loads(line))), file=answers)


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
    """Return what the new process calls before its program begins."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell makes what it starts in the background deaf to it
        die_with_parent()
        if os.getppid() != parent:  # which died before this
            os._exit(128 + signal.SIGTERM)

    return prepare
