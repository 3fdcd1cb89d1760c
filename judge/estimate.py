"""A speed-up as an estimate: a value, a 95 % interval, and whether the truth lies beyond what was measured."""

import math
from dataclasses import dataclass
from typing import Literal

Censored = Literal["above", "below"] | None


@dataclass(frozen=True)
class Speedup:
    """A speed-up is a ratio of costs, 2.0 for half the cost, with its 95 % interval.

    Censored: the truth lies "above" or "below" `value`, the last ratio that the ladder can show. `value` is
    None where it is unknown. `low` or `high` is None where the interval runs past the ladder's end; both are
    None where there is no interval at all, for want of seeds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    censored: Censored = None

    def inverse(self) -> "Speedup":
        """Return the speed-up of the other arm over this one."""

        def flip(ratio: float | None) -> float | None:
            return None if ratio is None else 1 / ratio

        swapped: dict[Censored, Censored] = {"above": "below", "below": "above", None: None}
        return Speedup(flip(self.value), flip(self.high), flip(self.low), swapped[self.censored])

    def times(self, factor: float, blur: float = 0.0) -> "Speedup":
        """Return it scaled by a measured factor whose own interval has the half-width `blur` on the log scale.

        The two errors are independent: on each side of the estimate they add in quadrature.
        """

        def scale(ratio: float | None, side: int) -> float | None:
            if ratio is None or not blur:
                return ratio and ratio * factor
            center = self.value or ratio
            return center * factor * math.exp(side * math.hypot(math.log(ratio / center), blur))

        value = None if self.value is None else self.value * factor
        return Speedup(value, scale(self.low, -1), scale(self.high, 1), self.censored)

    def __str__(self) -> str:
        """Write `1.42`; `>2` or `<0.5` where the ladder ends; a question mark where nothing is known."""
        if self.value is None:
            return "?"
        return {"above": f">{self.value:.3g}", "below": f"<{self.value:.3g}", None: f"{self.value:.2f}"}[self.censored]

    @property
    def known(self) -> bool:
        """Return whether the value or an end of its interval is known."""
        return self.value is not None or self.interval != ""

    @property
    def figure(self) -> str:
        """Return the number and its interval, `1.42 (1.31 to 1.55)`."""
        return f"{self} ({self.interval})" if self.interval else str(self)

    @property
    def interval(self) -> str:
        """Return the interval as `1.31 to 1.55`, with dots at an open end; empty without one."""
        if self.low is None and self.high is None:
            return ""
        return " to ".join("…" if end is None else f"{end:.2f}" for end in (self.low, self.high))
