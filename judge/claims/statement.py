"""A statement of a claim: a number, and what it has to be for the statement to hold."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from conventions.sentence import nearest
from judge.speedup import RULES, reverse


@dataclass(frozen=True)
class Statement:
    """A number, and what it has to be for the statement to hold."""

    says: str
    measure: Literal["speedup", "value", "difference", "ratio"]
    arm: str
    against: str | None = None
    rule: str = "matched"
    axis: Literal["steps", "flops", "seconds"] = "steps"
    quantity: str | None = None
    than: list[str] | None = None
    parts: str | list[str] = "*"  # a pattern or several: the parts in which it is tested
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    ours: bool = False  # the figure is not the paper's: it put no number on the statement

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("at_least or at_most must be given, and not both: the figure that was claimed")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be a share of the figure, at least 0 and below 1, not {self.tolerance}")
        if self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is not there: {nearest(self.rule, RULES)}")
        if (self.against is None) != (self.measure == "value"):
            raise ValueError(f"against must be {'left out of a value' if self.against else 'the arm to compare with'}")
        if (self.quantity is None) != (self.measure == "speedup"):
            raise ValueError(f"quantity must be {'left out of a speedup' if self.quantity else 'given'}")
        if self.than is not None and (self.measure == "value" or len(self.than) != 2):
            raise ValueError("than must be [arm, against], and not of a value")

    @property
    def figure(self) -> float:
        return self.at_least if self.at_least is not None else self.at_most  # type: ignore[return-value]

    @property
    def threshold(self) -> float:
        """Return the claimed bound with its tolerance: s (1 - d) for at least s, s (1 + d) for at most s."""
        slack = self.tolerance * abs(self.figure)
        return self.figure - slack if self.at_least is not None else self.figure + slack

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs (arm, against) whose numbers count, the first's held against the second's; or (arm, "")."""
        return [(self.arm, self.against or ""), *([(self.than[0], self.than[1])] if self.than else [])]

    @property
    def arms(self) -> list[str]:
        return [name for pair in self.pairs for name in pair if name]

    def among(self, parts: Iterable[str]) -> list[str]:
        """Return those of these parts in which the statement is tested."""
        patterns = [self.parts] if isinstance(self.parts, str) else self.parts
        return [part for part in parts if any(fnmatch.fnmatchcase(part, pattern) for pattern in patterns)]

    def ladder(self, arm: str, against: str) -> str:
        """Return the arm of a pair whose lengths a speed-up is read from."""
        return arm if RULES[self.rule] is reverse else against

    @property
    def across(self) -> bool:
        """Return whether the statement names the parts of its arms, and so is tested once and not in every part."""
        return "/" in self.arm
