"""What is aimed at on a device, beside what was measured there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scripts.suite.folder import markdown

# What the goals are about.
DEVICES = ("H100", "H200")
MODEL, TOKENS = "gpt2_125m", 524_288  # per update
SETTING = {"tokens": TOKENS, "context": 1024, "vocabulary": 50_304, "dtype": "torch.bfloat16"}

SHOWN = {"times": "{:.2f}x", "share": "{:.1%}", "seconds": "{:.1f} s", "rate": "{:,.0f}", "ms": "{:.2f} ms"}


@dataclass(frozen=True)
class Goal:
    """A bound on a number: at least, or at most, and not both; neither: it is shown and not judged."""

    what: str
    unit: Literal["times", "share", "seconds", "rate", "ms"]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def asked(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.show(self.at_least)}"
        return "" if self.at_most is None else f"≤ {self.show(self.at_most)}"

    def judged(self, value: float | None) -> str:
        """`met`, or by how much of the bound it was missed."""
        if value is None:
            return "not measured"
        for bound, sign in ((self.at_least, 1), (self.at_most, -1)):
            if bound is not None:
                short = sign * (bound - value) / bound
                return "met" if short <= 0 else f"missed by {short:.0%}" if short >= 0.005 else "missed by a hair"
        return ""

    def show(self, value: float | None) -> str:
        return "" if value is None else SHOWN[self.unit].format(value)


def judged(identity: Mapping[str, Any], device_name: str) -> bool:
    """Whether measurements of that identity, of what it tells of SETTING, can be held against the goals."""
    here = any(name in device_name for name in DEVICES)
    return here and all(identity.get(key) in (None, value) for key, value in SETTING.items())


def table(found: Iterable[tuple[Goal, float | None, str]]) -> str:
    """Markdown: a goal, what was measured, and which row that is of."""
    columns = {"aimed at": "what", "goal": "asked", "measured": "value", "of": "of", "": "judged"}
    rows = [
        {"what": goal.what, "asked": goal.asked, "value": goal.show(value), "of": of, "judged": goal.judged(value)}
        for goal, value, of in found
    ]
    return f"\n## What was aimed at\n\n{markdown(columns, rows)}"
