"""Measures how often the interval of a ladder holds the true speed-up, and writes the table of docs/interval.md anew.

    python -m tests.coverage            # make coverage: minutes on one core

Studies are made up: their laws, their noise and their speed-ups are known. tests/test_coverage.py holds the same
figures against what they must be.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from judge.contrast import Sample
from judge.ladder import Ladder

T = 2000
PAGE = Path(__file__).resolve().parent.parent / "docs" / "interval.md"
BEGIN, END = "<!-- make coverage -->\n", "<!-- end -->"
TRUE = (1.0, 1.15, 1.3)


def kink(at: float) -> Callable[[float], float]:
    """Return a law whose exponent changes from .35 to .28 at a length."""
    return lambda steps: 2 + 9 * at**-0.35 * (steps / at) ** (-0.35 if steps < at else -0.28)


LAWS: dict[str, Callable[[float], float]] = {
    "power law": lambda steps: 2 + 9 * steps**-0.35,
    "warm-up of 200 updates": lambda steps: 2 + 9 * (steps - 200) ** -0.35,
    "warm-up of 400 updates": lambda steps: 2 + 9 * (steps - 400) ** -0.35,
    "sum of two powers": lambda steps: 1.5 + 2 * steps**-0.1 + 20 * steps**-0.6,
    "straight line in log T": lambda steps: 2.7 - 0.12 * math.log(steps / T),
    "kink at T": kink(T),
    "kink at 1.4 T, between rungs": kink(1.4 * T),
}
WARMUPS = {"warm-up of 200 updates": 200, "warm-up of 400 updates": 400}
FIVE, THREE = (0.25, 0.5, 1, 2, 4), (0.5, 1, 2)  # rungs, times T


def cover(
    law: str,
    true: float,
    sigma: float,
    seeds: int,
    studies: int,
    rungs: tuple[float, ...] = FIVE,
    warmup: float = 0,
    whole: bool = False,
    correlation: float | None = None,
) -> tuple[float, float]:
    """Return the share of studies whose interval holds the truth, and half its mean width, of ln speed-up.

    warmup: what the ladder is told of it. whole: one law through all rungs. correlation: of one seed's losses, which
    all arms and lengths share; None: the seeds are not known to be the same.
    """
    rng = np.random.default_rng([len(law), int(true * 100), seeds])
    loss, holds, widths = LAWS[law], 0, []
    names = () if correlation is None else tuple(range(seeds))
    common, rest = math.sqrt(correlation or 0), math.sqrt(1 - (correlation or 0))
    for _ in range(studies):
        shared = rng.standard_normal(seeds)

        def sample(steps: float, shared: np.ndarray = shared) -> Sample:
            luck = common * shared + rest * rng.standard_normal(seeds)
            return Sample(loss(steps) + sigma * luck, names)

        ladder = Ladder({int(rung * T): sample(rung * T) for rung in rungs}, warmup)
        if whole and ladder.law:
            everything = tuple(range(len(rungs)))
            ladder.__dict__["_local"] = [(ladder.law, everything) for _ in rungs]
        found = ladder.reach(sample(true * T), T)
        low, high = found.low or 0.0, found.high or math.inf
        holds += low <= true <= high
        if found.low and found.high:
            widths.append(math.log(found.high / found.low) / 2)
    return holds / studies, float(np.mean(widths)) if widths else math.nan


def table(studies: int = 200) -> str:
    """Return the table in Markdown: shares at true speed-ups of 1.0, 1.15 and 1.3, in percent."""
    columns: dict[str, dict[str, object]] = {
        "5 rungs, 8 seeds, sigma .002": {"sigma": 0.002, "seeds": 8},
        "one law through these": {"sigma": 0.002, "seeds": 8, "whole": True},
        "5 rungs, 3 seeds, sigma .005": {"sigma": 0.005, "seeds": 3},
        "3 rungs, 3 seeds, sigma .005": {"sigma": 0.005, "seeds": 3, "rungs": THREE},
        "3 rungs, 8 seeds, sigma .002": {"sigma": 0.002, "seeds": 8, "rungs": THREE},
    }
    lines = [f"| true law | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 1)]

    def line(name: str, law: str, warmup: float = 0) -> str:
        cells = [
            ", ".join(f"{100 * cover(law, true, studies=studies, warmup=warmup, **how)[0]:.0f}" for true in TRUE)  # type: ignore[arg-type]
            for how in columns.values()
        ]
        return f"| {name} | {' | '.join(cells)} |"

    for law in LAWS:
        lines.append(line(law, law))
        if law in WARMUPS:
            lines.append(line("the same, taken off the length", law, WARMUPS[law]))
    return "\n".join(lines) + "\n"


def main() -> None:
    lines = table()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + lines + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
