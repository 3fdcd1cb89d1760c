"""How long a claim's run will take: its updates, by the clock of others of its kind, and its start apart from them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from conventions.run_format import ENDED
from judge.records import Run
from scripts.suite.training import Job

MARGIN = 1.2  # on what updates are expected to take
GUESS = 4.0  # of a kind that never ran here, times the most that another takes for as many tokens
START = {"first": 60.0, "next": 20.0}  # seconds, where none was seen: the first of a kind compiles
PARTS = ("total", "evaluate", "checkpoint", "log")  # of the clock, in an update's time; compilation is the start's
Starts = dict[str, dict[str, float]]  # seconds by kind, of the first in a sweep and of the next ones


@dataclass
class Pace:
    """What is known of each kind of run on this device."""

    updates: dict[str, float] = field(default_factory=dict)  # seconds
    per_token: float | None = None  # the most that any takes, in seconds
    starts: Starts = field(default_factory=dict)

    @staticmethod
    def of(runs: Iterable[tuple[str, Run]], starts: Starts) -> "Pace":
        """By runs and their kinds; of each kind the newest counts, one that was cut off where none has ended."""
        pace, per_token = Pace(starts=starts), dict[str, float]()
        ordered = sorted(runs, key=lambda pair: (pair[1].status in ENDED, str(pair[1].manifest.get("ended"))))
        for kind, run in ordered:
            if run.step and (seconds := clocked(run) / run.step):
                pace.updates[kind] = seconds
                per_token[kind] = seconds / run.config["batch"]["tokens"]
        pace.per_token = max(per_token.values(), default=None)
        return pace

    def knows(self, job: Job) -> bool:
        return job.kind in self.updates

    def seconds(self, job: Job, first: bool, updates: int | None = None) -> float:
        """Expected of a job, or of so many of its updates; infinite where no run of any kind has shown its pace.

        first: none of its kind comes before it in the same process.
        """
        guess = math.inf if self.per_token is None else GUESS * self.per_token * job.tokens
        made = job.left if updates is None else min(updates, job.left)
        return self.start(job.kind, first) + MARGIN * made * self.updates.get(job.kind, guess)

    def start(self, kind: str, first: bool) -> float:
        which = "first" if first else "next"
        known = [each[which] for each in self.starts.values() if which in each]
        return self.starts.get(kind, {}).get(which, max(known, default=START[which]))


def clocked(run: Run) -> float:
    """Seconds of all its updates, with what comes between them."""
    return sum(run.last(f"seconds/{part}") or 0.0 for part in PARTS)


def note_starts(starts: Starts, runs: Sequence[tuple[str, Run]], begun: float) -> None:
    """What the starts took of runs that ended one after another in a process: the newest of each kind counts.

    begun: when the process was, in seconds since 1970. A run that went on from a checkpoint tells nothing: its clock
    goes back further than this process.
    """
    before, seen = begun, set[str]()
    for kind, run in sorted(runs, key=lambda pair: str(pair[1].manifest["ended"])):
        ended = datetime.fromisoformat(run.manifest["ended"]).timestamp()
        if run.status == "finished" and not run.manifest["resumes"]:
            which = "next" if kind in seen else "first"
            starts.setdefault(kind, {})[which] = round(max(0.0, ended - before - clocked(run)), 1)
        before = ended
        seen.add(kind)
