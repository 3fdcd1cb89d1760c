"""One job of a sweep in a process of its own, on the same machine; what it prints goes to the job's log."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from conventions.config_keys import CONFIGS
from conventions.run_format import read_status
from harness.sweep.jobs import Job

GRACE = 10.0  # seconds between asking a run to stop and killing it, which costs it nothing that a checkpoint holds
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None  # opened here: a forked process had better not


class JobProcess:
    """A job, begun.

    Args:
        environment: variables on top of this process's own.
        ranks: processes of the run; torchrun starts them where there are several.
        resume: go on from the newest checkpoint, whatever the overrides say.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], ranks: int = 1, resume: bool = False) -> None:
        self.job, self.ranks = job, ranks
        self.began = time.monotonic()
        self._asked = False
        line = [sys.executable]
        if ranks > 1:
            line += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        overrides = job.overrides
        if resume:
            overrides = [o for o in overrides if not o.startswith("resume=")] + ["resume=true"]
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            self._log_from = log.tell()
            # A session of its own: Ctrl-C in the terminal is for the queue, which then stops its jobs.
            self._process = subprocess.Popen(
                [*line, str(CONFIGS.parent / "train.py"), *overrides], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def ended(self) -> bool:
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """As Ctrl-C would, once."""
        if not self._asked:
            self._asked = True
            self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """End it: ask, and if it does not heed that, kill it."""
        try:
            self.ask_to_stop()
            waited = time.monotonic() + GRACE
            while not self.ended() and time.monotonic() < waited:
                time.sleep(0.05)
        finally:
            if not self.ended():
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def outcome(self) -> tuple[str, str | None]:
        """What became of a job that has ended: a status as jobs.jsonl has it, and what to say of it."""
        code, status = self._process.returncode, read_status(self.job.run) if self.job.run else None
        # torchrun ends with 1 whatever its ranks ended with, which it prints; those it stops itself have SIGTERM.
        of_ranks = re.findall(r"exitcode +: -(\d+) ", self._said()) if self.ranks > 1 else []
        killed = [-code] if code < 0 else [int(by) for by in of_ranks if int(by) != signal.SIGTERM]
        if status in ("finished", "diverged") and (code == 0 or killed):
            return status, None  # killed after its last word, perhaps: gloo's threads now and then abort Python's exit
        if killed:
            return "cut", f"killed by {signal.Signals(killed[0]).name}"
        if code == 128 + signal.SIGINT or (self.ranks > 1 and status == "cut"):
            return "cut", "interrupted"
        return "failed", self._last_words()

    def _said(self) -> str:
        with open(self.job.log, "rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def _last_words(self) -> str:
        """The sentence that the run ended in, or for want of one the last line that it printed."""
        lines = [line for line in self._said().splitlines() if line.strip()]
        sentences = [line for line in lines if line.startswith("halfstep: ")]
        last = (sentences or lines or [f"ended with exit code {self._process.returncode}"])[-1]
        return last.removeprefix("halfstep: ").strip()


def die_with_parent() -> None:
    """Should whoever started it be killed, the run is to end too, and not hold its folder and its GPU."""
    if LIBRARY:
        LIBRARY.prctl(DIE_WITH_PARENT, signal.SIGTERM)
