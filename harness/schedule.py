"""The learning rate over a run, as a factor on each group's `initial_lr`."""

import math
from collections.abc import Callable
from typing import Literal

import torch


def build_schedule(
    steps: int,
    kind: Literal["cosine", "linear", "polynomial", "constant", "wsd"],
    warmup: int | float,
    final: float,
    decay: float = 0.2,
    power: float = 0.5,
) -> Callable[[int], float]:
    """Return the schedule: a function of `step`, 0 <= step < steps, that gives the factor for the update made there.

    Args:
        steps: updates of the whole run.
        kind: all but constant fall to `final`, wsd in a straight line over the last `decay` share only, polynomial as
            what is left of the run to the `power`.
        warmup: updates of linear warm-up (a whole number), or a share of `steps` (below 1). 1 is one update; 1.0 could
            be either, and is refused.
        final: the factor that the decay ends at.

    Raises:
        ValueError: a keyword out of its range.
    """
    if isinstance(warmup, float) and warmup == 1:
        raise ValueError("warmup must be a share below 1 or a number of updates: 1.0 could be either, write 1 for one")
    if warmup < 0 or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"warmup must be a whole number of updates or a share below 1, not {warmup}")
    warm = round(warmup * steps) if warmup < 1 else int(warmup)
    if warm >= steps and warm > 0:
        raise ValueError(f"warmup must be shorter than the run: {warm} of {steps} steps")
    if not 0 <= final <= 1:
        raise ValueError(f"final must be between 0 and 1, a share of the peak, not {final}")
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, a share of the steps, not {decay}")
    if not 0 < power < math.inf:
        raise ValueError(f"power must be above 0, not {power}")
    start = max(warm, steps - round(decay * steps)) if kind == "wsd" else warm

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if kind == "constant" or step < start:
            return 1.0
        progress = (step - start) / (steps - start)  # as in nanoGPT, 1 would be reached at `steps`
        fall = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1 - progress
        fall = fall**power if kind == "polynomial" else fall
        return final + (1 - final) * fall

    return factor


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to a factor on its `initial_lr`; groups without one follow no schedule."""
    for group in (group for group in optimizer.param_groups if "initial_lr" in group):
        group["lr"] = group["initial_lr"] * factor
