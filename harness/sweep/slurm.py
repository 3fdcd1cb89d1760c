"""`launcher=slurm`: a sweep as an array of SLURM jobs, submitted by submitit.

On its node a job is a guard that starts the run and sees to its end. What SLURM cuts short (by time limit, preemption)
or what is killed is requeued, and the next attempt goes on from the newest checkpoint. The word on each job is in
jobs.jsonl, which the nodes share with whoever waits: nothing hangs on SLURM's accounting, which many clusters lack.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.sentence import sentence
from harness.sweep.board import Board
from harness.sweep.jobs import Job, outcomes
from harness.sweep.nodes import Nodes
from harness.sweep.process import JobProcess

POLL = 0.2  # seconds between two looks at a run, or at jobs.jsonl
ASK_EVERY = 5.0  # seconds between two questions to SLURM, whose controller serves a whole cluster
PATIENCE = 4  # answers in a row that a job is gone before they are believed: shared file systems lag
WITH_OTHERS = 30.0  # seconds that the ranks of a node have to end by themselves, once those of another have
WARNING = 120  # seconds from SLURM's signal to the end of the time limit
GONE = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@dataclass
class Guard:
    """A callable that runs on each node: it begins the run there, and requeues the job where the run was cut off.

    Of several nodes the first speaks for all of them.
    """

    job: Job
    ranks: int  # on each node
    threads: str
    requeue: int
    resume: bool = False

    def __call__(self) -> None:
        from submitit.core.utils import UncompletedJobError

        task = array_task(os.environ)
        nodes = Nodes.of_slurm(os.environ, self.job.folder / "slurm" / task)
        resume = self.resume or nodes.attempt > 0
        self._process = JobProcess(self.job, {"OMP_NUM_THREADS": self.threads}, self.ranks, resume, nodes)
        # SLURM ends the job, to requeue it itself or for good: either way that is not ours to undo.
        signal.signal(signal.SIGTERM, self._leave)
        try:
            by_itself = self._watch(nodes)
        except UncompletedJobError:  # out of time once more than it may be, says submitit
            self._process.stop()
            attempts = nodes.attempt + 1
            self.job.record("cut", f"out of time in {attempts} attempts (launcher.timeout_min, launcher.requeue)")
            return
        nodes.tell(*(self._process.outcome() if by_itself else nodes.heard()[0]))
        if nodes.number:
            return
        status, error = self._process.outcome() if nodes.count == 1 else nodes.agreed(2 * WITH_OTHERS)
        if status == "cut" and nodes.attempt < self.requeue and requeue_job(task):
            raise SystemExit(1)
        self.job.record(status, error)

    def _watch(self, nodes: Nodes) -> bool:
        """Wait for the end of this node's ranks; False if they were stopped, long after the end of another node's."""
        since = None
        while not self._process.ended():
            time.sleep(POLL)
            if nodes.heard():
                since = since or time.monotonic()
                if time.monotonic() > since + WITH_OTHERS:
                    self._process.stop()
                    return False
        return True

    def checkpoint(self) -> Any:
        """Stop the run, and return what the next attempt runs: submitit calls this when SLURM warns of the end."""
        from submitit.helpers import DelayedSubmission

        self._process.stop()
        return DelayedSubmission(replace(self, resume=True))

    def _leave(self, *_: object) -> None:
        self._process.stop()
        raise SystemExit(128 + signal.SIGTERM)


class SlurmArray:
    """Submits jobs as one array, and waits for them.

    The keywords are the keys of configs/launcher/slurm.yaml, explained there.

    Raises:
        ValueError: a value out of range.
        FileNotFoundError: there is no sbatch here.
    """

    def __init__(
        self,
        work: Sequence[Job],
        device: str,
        partition: str | None = None,
        account: str | None = None,
        timeout_min: int = 1440,
        nodes: int = 1,
        gpus: int = 1,
        cpus: int = 8,
        memory: float | None = None,
        parallel: int = 256,
        requeue: int = 5,
        wait: bool = True,
        setup: list[str] | None = None,
        sbatch: dict[str, Any] | None = None,
    ) -> None:
        least = {"timeout_min": (timeout_min, 1), "nodes": (nodes, 1), "cpus": (cpus, 1), "parallel": (parallel, 1)}
        for key, (value, lowest) in {**least, "gpus": (gpus, 0), "requeue": (requeue, 0)}.items():
            if value < lowest:
                raise ValueError(f"{key} must be at least {lowest}, not {value}")
        if memory is not None and memory <= 0:
            raise ValueError(f"memory must be above 0 GB, not {memory}; null takes the partition's default")
        if shutil.which("sbatch") is None:
            raise FileNotFoundError(
                "launcher=slurm: there is no sbatch on the PATH of this machine: run it where SLURM is, "
                "or take launcher=local"
            )
        self.work, self.requeue, self.wait = work, requeue, wait
        self.folder = work[0].folder
        ranks = max(1, gpus)
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpus // ranks))
        self.guards = [Guard(job, ranks, threads, requeue) for job in work]
        root = f"export PYTHONPATH={CONFIGS.parent}:$PYTHONPATH"
        parameters = {
            "name": "halfstep", "timeout_min": timeout_min, "mem_gb": memory,
            "nodes": nodes, "tasks_per_node": 1, "cpus_per_task": cpus,
            "gpus_per_node": gpus or None, "slurm_partition": partition, "slurm_account": account,
            "slurm_array_parallelism": parallel, "slurm_setup": [root, *(setup or [])],
            "slurm_signal_delay_s": min(WARNING, 30 * timeout_min),
            "slurm_additional_parameters": {"requeue": True, **(sbatch or {})},
        }  # fmt: skip
        self.parameters = {key: value for key, value in parameters.items() if value is not None}

    @staticmethod
    def at_once(device: str, **_: object) -> None:
        """Return None: no run goes on this machine, all go on others with devices of their own."""

    def run(self) -> None:
        """Submit, and unless `wait` is false stay until every job has its outcome.

        Raises ValueError if sbatch refuses them.
        """
        tasks = self._submit()
        array = next(iter(tasks)).partition("_")[0]
        print(f"submitted to SLURM as job {array}: {len(tasks)} runs", flush=True)
        if not self.wait:
            watch = f"python -m scripts.runs {self.folder.parent.parent} --watch"
            print(f"{watch} shows how far they are; what became of each: {self.folder / 'jobs.jsonl'}")
            return
        try:
            with Board(self.work) as board:
                self._wait(board, array, tasks)
        except KeyboardInterrupt:
            print(f"\nhalfstep: the jobs stay in SLURM's queue; scancel {array} takes them out", file=sys.stderr)
            raise SystemExit(130) from None

    def _submit(self) -> dict[str, Job]:
        """Submit the jobs; return them by their number in SLURM."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = self.folder.resolve() / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.requeue)
            executor.update_parameters(**self.parameters)
            with redirect_stderr(io.StringIO()):  # sbatch's words, which are in the error too
                submitted = executor.submit_array(self.guards)
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise ValueError(
                f"launcher=slurm: sbatch refuses the jobs ({lines[-1] if lines else sentence(error)}): see its keys"
            ) from error
        return {one.job_id: job for one, job in zip(submitted, self.work, strict=True)}

    def _wait(self, board: Board, array: str, tasks: Mapping[str, Job]) -> None:
        ask_at, gone, tries = 0.0, dict.fromkeys(tasks, 0), dict.fromkeys(tasks, 0)
        open_tasks = dict(tasks)
        while open_tasks:
            recorded = outcomes(self.folder)
            for task, job in list(open_tasks.items()):
                if job.number in recorded:
                    board.tell(job, recorded[job.number]["status"], recorded[job.number]["error"])
                    del open_tasks[task]
            if time.monotonic() >= ask_at and (states := queue_states(array)) is not None:
                ask_at = time.monotonic() + ASK_EVERY
                for task, job in list(open_tasks.items()):
                    state = states.get(task, "GONE")
                    gone[task] = gone[task] + 1 if state in {*GONE, "GONE"} else 0
                    if not gone[task]:
                        board.states[job.number] = "running" if state in ("RUNNING", "COMPLETING") else "queued"
                    if gone[task] < PATIENCE:
                        continue
                    if state not in ("CANCELLED", "GONE") and tries[task] < self.requeue and requeue_job(task):
                        tries[task] += 1  # its guard was killed with it
                    else:
                        board.end(job, "cut", f"SLURM has ended it ({state.lower()})")
                        del open_tasks[task]
            board.refresh()
            time.sleep(POLL)


def array_task(environment: Mapping[str, str]) -> str:
    """Return the number of this job in SLURM."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def requeue_job(task: str) -> bool:
    """Put a job back into SLURM's queue; return whether SLURM allowed it."""
    return subprocess.run(["scontrol", "requeue", task], capture_output=True).returncode == 0


def queue_states(array: str) -> dict[str, str] | None:
    """Return SLURM's word on every job of an array that it remembers; None where its controller does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={array}", "--format=%F|%K|%T"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        return {} if "Invalid job id" in asked.stderr else None
    states = {}
    for line in asked.stdout.splitlines():
        main, index, state = line.strip().split("|")
        states[main if index == "N/A" else f"{main}_{index}"] = state
    return states
