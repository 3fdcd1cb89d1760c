"""`launcher=local`: a queue of runs over this machine's GPUs, or over its cores where there is none.

Every run is a process of its own, the same `train.py key=value ...` that a person would type: one that crashes, hangs
or is killed takes no other along. A pool of workers (joblib's, which Hydra's own plugin uses) breaks with any of them.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

from harness.sweep.board import Board
from harness.sweep.jobs import Job
from harness.sweep.process import JobProcess

POLL = 0.1  # seconds


class LocalQueue:
    """Runs jobs side by side, as many as there are slots.

    Args:
        jobs: runs side by side; auto: one per GPU, or else one per core. GPUs are dealt out in turn.
        threads: of each run; auto: OMP_NUM_THREADS where it is set, or else an equal share of the cores. The manifest
            records it: another number of threads gives other bits.
        timeout: minutes after which a run is stopped; null: never.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        work: Sequence[Job],
        device: str,
        jobs: int | Literal["auto"] = "auto",
        threads: int | Literal["auto"] = "auto",
        timeout: float | None = None,
    ) -> None:
        for key, value in {"jobs": jobs, "threads": threads}.items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}; auto chooses")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout must be above 0 minutes, not {timeout}; null sets none")
        if "WORLD_SIZE" in os.environ:
            raise ValueError("local starts processes of its own: run it without torchrun, or take launcher=serial")
        self.work, self.timeout = work, timeout
        self.gpus = visible_gpus() if device != "cpu" else []
        self.slots = min(len(work), jobs if isinstance(jobs, int) else len(self.gpus) or cores())
        share = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // self.slots))
        self.threads = share if threads == "auto" else str(threads)

    @staticmethod
    def at_once(device: str, jobs: int | Literal["auto"] = "auto", **_: object) -> int:
        """Return how many runs the launcher has going at once on this machine, if there are so many."""
        return jobs if isinstance(jobs, int) else (len(visible_gpus()) if device != "cpu" else 0) or cores()

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment variables that tell a run in a slot which part of the machine is its own."""
        own = {"OMP_NUM_THREADS": self.threads}
        return own | ({"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {})

    def run(self) -> None:
        """Work the queue off. Interrupted, it stops what runs; each goes on with resume=true."""
        waiting, live = deque(self.work), dict[int, JobProcess]()
        with Board(self.work) as board:
            try:
                while waiting or live:
                    for slot in range(self.slots):
                        if waiting and slot not in live:
                            live[slot] = JobProcess(waiting[0], self.environment(slot))
                            board.begin(waiting.popleft())
                    board.refresh()
                    time.sleep(POLL)
                    for slot, process in list(live.items()):
                        if process.ended():
                            board.end(process.job, *process.outcome())
                        elif self.timeout and process.seconds > 60 * self.timeout:
                            process.stop()
                            board.end(process.job, "cut", f"after {self.timeout:g} minutes, by launcher.timeout")
                        else:
                            continue
                        del live[slot]
            finally:  # interrupted, and only then is any still live
                for process in live.values():
                    process.ask_to_stop()
                for process in live.values():
                    process.stop()
                    board.end(process.job, "cut")


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here: nothing else of a launcher needs it

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named is not None else [str(index) for index in range(count)]
