"""Copies published runs that a program plans to where it keeps its own, so that nobody trains them twice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conventions.planned_run import PlannedRun
from conventions.run_format import ENDED, RUNS
from data.plan import check_data
from harness.config import Config, config_hash
from harness.device import resolve_device, resolve_dtype
from judge.publication import copy_run
from judge.records import Run, read_run
from judge.timing import device_of

RESULTS = RUNS.parent
READY = ("stdlib", "synthetic")  # corpora that are prepared in a second


@dataclass
class Published:
    """Finds what results/ holds of planned runs, at the same place below it and with the same config.

    cfg: of the runs. preparing: whether a large corpus may be prepared, to see that theirs is the same.
    """

    cfg: Config
    preparing: bool
    taken: list[Run] = field(default_factory=list)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # of a study, for a reason

    def take(self, runs: Sequence[PlannedRun]) -> bool:
        """Copy the published runs that are not here; return whether there were any."""
        before = len(self.taken)
        for each in runs:
            if run := self._find(each):
                copy_run(run, each.folder)
                self.taken.append(run)
        return len(self.taken) > before

    def sentences(self) -> list[str]:
        """Return sentences on what was copied, and on what was not."""
        lines = []
        if self.taken:
            studies = ", ".join(sorted({str(RESULTS / _study(run)) for run in self.taken}))
            devices = ", ".join(sorted({device_of(run) for run in self.taken}))
            lines = [f"{len(self.taken)} published runs are taken over from {studies}, timed on {devices}"]
        return lines + [
            f"{count} published runs in {RESULTS / study} are not taken over: {why}"
            for (study, why), count in self.refused.items()
        ]

    def _find(self, planned: PlannedRun) -> Run | None:
        run = ended_twin(planned, RESULTS / planned.folder.relative_to(RUNS))
        if run and (why := self._unlike(run)):
            self.refused[_study(run), why] += 1
            return None
        return run

    def _unlike(self, run: Run) -> str | None:
        """Say why a run of the same config would be another one here: `auto` and the text of a corpus are not in it."""
        theirs = run.known("resolved", "dtype")
        if theirs != self._dtype:
            return f"they are in {theirs}, runs on this machine in {self._dtype}"
        if self.cfg.data["name"] not in READY and not self.preparing:
            return "whether the corpus is the same is seen when it is prepared"
        if run.known("data", "fingerprint") != self._fingerprint:
            return f"their {self.cfg.data['name']} is another text than this machine's"
        return None

    @cached_property
    def _dtype(self) -> str:
        return str(resolve_dtype(self.cfg.dtype, resolve_device(self.cfg.device))).removeprefix("torch.")

    @cached_property
    def _fingerprint(self) -> str:
        return check_data(self.cfg.data)().fingerprint


def ended_twin(planned: PlannedRun, folder: Path) -> Run | None:
    """Read the run in a folder if it has ended and is the planned one, of which there is nothing yet."""
    if (planned.folder / "manifest.json").exists() or not (folder / "manifest.json").is_file():
        return None
    run = read_run(folder)
    return run if run.status in ENDED and config_hash(run.config) == config_hash(planned.config) else None


def _study(run: Run) -> str:
    return run.folder.relative_to(RESULTS).parts[0]
