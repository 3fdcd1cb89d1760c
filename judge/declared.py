"""Values of noise and slopes that a person states, with their source, where the runs at hand cannot tell them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sigma:
    """The standard deviation of one run's final loss over seeds, nats per token, of arms with under three seeds."""

    value: float
    source: str
    freedom: float = math.inf  # degrees of freedom of the estimate; infinite: taken as known

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value) and self.freedom >= 1):
            raise ValueError(f"a declared sigma is above 0, from 1 degree of freedom or more, not {self.value:g}")
        if not self.source:
            raise ValueError("a declared sigma needs its source: say where it was measured (--sigma-from)")

    def __str__(self) -> str:
        freedom = f", {self.freedom:.0f} degrees of freedom" if math.isfinite(self.freedom) else ""
        return f"{self.value:g} nats, declared ({self.source}{freedom})"


@dataclass(frozen=True)
class Slope:
    """The gain in loss from twice the length, near the lengths compared, in nats per token.

    The true gain lies within a factor of this one, either way.
    """

    per_doubling: float
    factor: float
    source: str

    def __post_init__(self) -> None:
        if not (self.per_doubling > 0 and math.isfinite(self.per_doubling)):
            raise ValueError(f"a slope is what twice the length gains, above 0 nats, not {self.per_doubling:g}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"a slope is known within a factor of 1 or more, not {self.factor:g}")
        if not self.source:
            raise ValueError("a declared slope needs its source: say which law it is from (--slope-from)")

    def __str__(self) -> str:
        within = f"{self.per_doubling / self.factor:.3g} to {self.per_doubling * self.factor:.3g}"
        return f"{self.per_doubling:.3g} nats for twice the length ({within}; {self.source})"

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest slope, in nats for an e-fold of the length."""
        slope = self.per_doubling / math.log(2)
        return slope / self.factor, slope * self.factor


@dataclass(frozen=True)
class Declared:
    """Everything that was declared for a comparison. Without `isoloss` that rule is not asked."""

    sigma: Sigma | None = None
    isoloss: bool = False
    slope: Slope | None = None  # None: from the baseline's own ladder
    loss: float | None = None  # what both arms were to reach; None: each other's
    within: float = 0.01  # nats that an arm may have ended away from it

    def __post_init__(self) -> None:
        if not 0 < self.within < math.inf:
            raise ValueError(f"--within must be above 0 nats, not {self.within:g}")


NOTHING = Declared()
