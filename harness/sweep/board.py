"""The table of a sweep at work: what its launcher knows of each job, and what the run's folder says."""

from collections.abc import Sequence

from harness.sweep.jobs import Job
from harness.sweep.watch import LiveTable, RunReader, RunRow, row_of

# What the table says of a job that did not end by itself.
VERBS = {"failed": "failed", "cut": "was cut off"}


class Board(LiveTable):
    """Jobs, from queued by way of running to how they ended."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self.jobs = jobs
        self.states = {job.number: "queued" for job in jobs}
        self._readers = {job.number: RunReader(job.run) for job in jobs if job.run}

    def __exit__(self, *problem: object) -> None:
        self.show(self._rows, now=True)
        super().__exit__(*problem)

    def refresh(self) -> None:
        self.show(self._rows)

    def begin(self, job: Job) -> None:
        self.states[job.number] = "running"

    def end(self, job: Job, status: str, error: str | None = None) -> None:
        """Record the outcome, and show it."""
        job.record(status, error)
        self.tell(job, status, error)

    def tell(self, job: Job, status: str, error: str | None = None) -> None:
        """Show an outcome that is recorded already."""
        self.states[job.number] = status
        if error:
            again = "; resume=true goes on with it" if status == "cut" else ""
            self.say(f"halfstep: job {job.number} {VERBS[status]}: {error}{again} ({job.log})")

    def _rows(self) -> list[RunRow]:
        rows = []
        for job in self.jobs:
            state, reader = self.states[job.number], self._readers.get(job.number)
            # What is in the folder of a queued job is of another day.
            rows.append(row_of(job.label, reader.read() if reader and state != "queued" else None, state))
        return rows
