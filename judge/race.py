"""Reads a race: every optimizer ran once, all over one length. It shows who led, and cannot give a verdict.

A verdict takes several seeds, since chance alone moves a final loss, and several lengths of the baseline, since a loss
that is reached sooner inside one schedule does not say how long the baseline would have had to train for it.
"""

from math import inf

from judge.comparison import Comparison, Standing
from judge.ladder import RUNGS
from judge.row import too_small
from judge.spread import SEEDS


def is_race(comparison: Comparison) -> bool:
    """Return whether the baseline and another optimizer finished one run each, of one setting, over one length."""
    finished = [each for each in comparison.standings if each.seeds]
    lengths = {length for each in comparison.standings for length in each.arm.lengths}
    alone = all(each.seeds == each.tried == 1 for each in finished) and len(lengths) == 1
    return alone and len(finished) > 1 and comparison.standings[0].seeds == 1


def places(comparison: Comparison) -> list[Standing]:
    """Sort the optimizers that finished by the updates to the target; those that missed it follow, by final loss."""

    def order(each: Standing) -> tuple[float, float]:
        return each.reached.steps if each.reached else inf, inf if each.loss is None else each.loss

    return sorted((each for each in comparison.standings if each.seeds), key=order)


def goal(comparison: Comparison) -> str:
    """Return the target in words: `adamw's final loss, 1.5936`, or the bare loss where it is not the baseline's own."""
    own = comparison.target == comparison.standings[0].loss
    return f"{comparison.baseline}'s final loss, " * own + f"{comparison.target:.4f}"


def leader(comparison: Comparison) -> str:
    """Return a sentence on who led, and by how much."""
    first, base = places(comparison)[0], comparison.standings[0]
    if not first.reached:
        return f"{first.arm.label} led with a final loss of {first.loss:.4f}: nobody reached {goal(comparison)}."
    if first is base:
        return f"{base.arm.label} led: no other optimizer reached {goal(comparison)}, in fewer updates."
    times = f", a speed-up of {base.reached.steps / first.reached.steps:.2f} in steps" if base.reached else ""
    updates = f"{first.reached.steps:,.0f} of {comparison.length:,} updates"
    return f"{first.arm.label} led: it reached {goal(comparison)}, after {updates}{times}."


def verdict_takes(comparison: Comparison) -> str:
    """Return sentences on what a verdict would take, and the command that trains it for the best newcomer."""
    newcomer = next(each for each in places(comparison) if each is not comparison.standings[0])
    return (
        "This is a race and no verdict: each optimizer ran once, and another seed or length may turn the order round. "
        f"A verdict takes {SEEDS} seeds of both optimizers and {comparison.baseline} at {RUNGS} lengths; "
        f"make verdict OPTIMIZER={newcomer.optimizer} trains and judges them."
    )


def notes(comparison: Comparison) -> list[str]:
    """Return what else there is to know, but not missing seeds and lengths, for `verdict_takes` names them once."""
    small = too_small(comparison.length or 0, [run for each in comparison.standings for run in each.arm.runs])
    return [*([small] if small else []), *comparison.footnotes]
