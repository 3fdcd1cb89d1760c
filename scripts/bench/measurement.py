"""Describes what the bench measures: one side, or two beside each other, that take turns in their own processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALONE, BESIDE = "A", "ABBA"  # turns of a round: palindromes, so that a machine that slows down steadily favours nobody


@dataclass(frozen=True)
class Side:
    """Says what a worker is to build: `kind` names a class or function as module:name, and takes the keywords."""

    name: str
    kind: str
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """An entry of the bench's list.

    Attributes:
        part: a table each.
        about: what is measured, by key; with the names of the sides it tells this measurement from all others.
        order: which side has each turn of a round: A is the first one, which the measurement is about.
        seconds: of a turn, which has whole updates and whole periods of refreshes.
        updates: of a turn; 0: as many as take those seconds.
        limit: seconds that a side has to be ready, and for a turn; what hangs is killed then.
        parts: whether each side also profiles an update at the end of every round.
        together: so many neighbours of a kind are built at once; they are timed one after another.
    """

    part: str
    about: Mapping[str, Any]
    sides: tuple[Side, ...]
    order: str = ALONE
    rounds: int = 1
    seconds: float = 0.0
    updates: int = 0
    limit: float = 240.0
    parts: bool = False
    together: int = 1

    @property
    def what(self) -> str:
        """Return the key of its lines in the store."""
        words = [self.part, *(f"{key}={value}" for key, value in self.about.items())]
        return f"{' '.join(words)}: {' beside '.join(side.name for side in self.sides)}"
