"""One job of a sweep in a process of its own, on the same machine; what it prints goes to the job's log."""

import re
import signal
import sys
from collections.abc import Mapping

from conventions.config_keys import CONFIGS
from conventions.run_format import ENDED, read_status
from harness.process import Process
from harness.sweep.jobs import Job
from harness.sweep.nodes import Nodes


class JobProcess(Process):
    """A job, begun.

    Args:
        environment: variables on top of this process's own.
        ranks: processes of the run on this node; torchrun starts them where the run has several.
        nodes: of the run.
        resume: go on from the newest checkpoint, whatever the overrides say.
    """

    def __init__(
        self,
        job: Job,
        environment: Mapping[str, str],
        ranks: int = 1,
        resume: bool = False,
        nodes: Nodes = Nodes(),  # noqa: B008 (it is frozen)
    ) -> None:
        self.job, self.ranks = job, ranks * nodes.count
        line = [sys.executable]
        if self.ranks > 1:
            line += ["-m", "torch.distributed.run", *nodes.torchrun, f"--nproc_per_node={ranks}"]
        overrides = job.overrides
        if resume:
            overrides = [o for o in overrides if not o.startswith("resume=")] + ["resume=true"]
        log = job.log.with_suffix(f".{nodes.number}.log") if nodes.number else job.log
        super().__init__([*line, str(CONFIGS.parent / "train.py"), *overrides], log, environment)

    def outcome(self) -> tuple[str, str | None]:
        """Return a job's status once it has ended, as jobs.jsonl has it, and a sentence on what went wrong, or None."""
        ending, status = self.ending(), read_status(self.job.run) if self.job.run else None
        # torchrun ends with 1 whatever its ranks ended with, which it prints; those it stops itself have SIGTERM.
        of_ranks = re.findall(r"exitcode +: -(\d+) ", self.output()) if self.ranks > 1 else []
        ranks_killed = [signal.Signals(int(by)).name for by in of_ranks if int(by) != signal.SIGTERM]
        killed = [ending.signal] if ending.signal else ranks_killed
        if status in ENDED and (ending.code == 0 or killed):
            return status, None  # killed after its last word, perhaps: gloo's threads now and then abort Python's exit
        if killed:
            return "cut", f"killed by {killed[0]}"
        if ending.code == 128 + signal.SIGINT or (self.ranks > 1 and status == "cut"):
            return "cut", "interrupted"
        return "failed", ending.last_words
