"""The verdict on anyone's optimizer: a sentence, how it came about, and everything as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conventions.quantity import TITLE
from judge.comparison import Comparison
from judge.row import TOO_SMALL, Row
from judge.tuning.trials import Tuning


@dataclass(frozen=True)
class VerdictScale:
    """An entry of configs/verdict.yaml, which says what the keys mean."""

    config: list[str]
    steps: int
    trials: int
    seeds: list[int]
    baseline: list[float]
    newcomer: list[float]
    may_say: str

    def lengths(self, shares: Sequence[float]) -> list[int]:
        """Return the lengths in updates, the shortest first: shares of T, as `baseline` and `newcomer` are."""
        return sorted(round(share * self.steps) for share in shares)


@dataclass(frozen=True)
class NewcomerVerdict:
    """The verdict on a newcomer, with the rows and checks that it rests on."""

    name: str  # of the scale
    scale: VerdictScale
    folder: Path  # of the compared runs
    optimizer: str
    seed: int  # of the tuning
    checks: list[dict[str, Any]]  # of conformance: name, passed, detail
    comparison: Comparison
    tunings: dict[str, Tuning]

    @property
    def baseline(self) -> str:
        return self.comparison.baseline

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Return the rows of the rule that decides, by axis."""
        return {row.axis: row for row in self.comparison.rows if row.rule == "matched"}

    @property
    def sentence(self) -> str:
        """Return a sentence: `lion, held against adamw at the scale tiny: slower in steps, .71 (.65 to .78); ...`."""
        verdicts = "; ".join(
            f"{row.words or 'no verdict'} in {TITLE[axis]}" + (f", {row.speedup.figure}" if row.speedup.known else "")
            for axis, row in self.rows.items()
        )
        small = next((note for row in self.rows.values() for note in row.notes if note.startswith(TOO_SMALL)), "")
        why = f" {small[0].upper()}{small[1:]}." if small else ""
        failed = f" It fails {self.failed} of {len(self.checks)} checks of conformance." if self.failed else ""
        return f"{self.optimizer}, held against {self.baseline} at the scale {self.name}: {verdicts}.{why}{failed}"

    @property
    def failed(self) -> int:
        return sum(not check["passed"] for check in self.checks)

    @property
    def scope(self) -> str:
        return f"What a verdict at the scale {self.name} may say: {self.scale.may_say}"

    @property
    def protocol(self) -> str:
        scale = self.scale
        lengths = ", ".join(f"{length:,}" for length in scale.lengths(scale.baseline))
        ours = ", ".join(f"{length:,}" for length in scale.lengths(scale.newcomer))
        trials = f"{scale.trials} trials of {scale.steps // 2:,} updates"
        lost = ", ".join(f"{tuning.diverged} of {name}" for name, tuning in self.tunings.items())
        return (
            f"Speed-ups by the matched rule, above 1 is faster, with 95 % intervals from {len(scale.seeds)} seeds: the "
            f"{self.baseline} length that reaches the newcomer's loss, from {self.baseline} at {lengths} updates and "
            f"{self.optimizer} at {ours}. Both were tuned by {trials}, the best and its neighbours again at "
            f"{scale.steps:,}, on the seed {self.seed}; diverged: {lost}."
        )

    def json(self) -> dict[str, Any]:
        """Return everything, with numbers as numbers."""
        return {
            **{"optimizer": self.optimizer, "baseline": self.baseline, "scale": self.name},
            **{"verdict": self.rows["steps"].verdict if self.rows else None, "sentence": self.sentence},
            **{"may_say": self.scale.may_say, "study": str(self.folder)},
            "rows": [row.json() for row in self.comparison.rows],
            "conformance": self.checks,
            "tuning": {name: tuning.json() for name, tuning in self.tunings.items()},
            **{"warnings": self.comparison.warnings, "notes": self.comparison.notes},
        }  # fmt: skip
