"""How much faster is an optimizer than the baseline? Rules, three axes, and words for what they allow.

    matched   T_base(L_new(T)) / T   the baseline length that would reach the newcomer's final loss, from a
                                     ladder of baseline lengths, each run decayed over its own: the verdict
    reverse   T / T_new(L_base(T))   the newcomer's length that reaches the baseline's final loss, from a
                                     ladder of its own: SOAP's own figure (40 % fewer steps is 1.67)
    isoloss   T_base / T_new         where both ended near one loss, the rest of the difference turned into length
                                     (judge/isoloss.py): for studies with one target, and only if it is asked for
    target    the first crossing of a loss inside one schedule, between evaluations: shown, never decides

Each in steps, FLOPs and seconds. A ladder gives a number of steps; what they cost is each arm's own measured
cost per step: `matched` in FLOPs is the cost of the baseline's run of the matched length over the newcomer's.

Verdicts, where no claim was made beforehand, by the 95 % interval:

    faster               all of it lies above 1
    slower               all of it lies below 1
    no difference seen   it holds 1 and stays within .8 to 1.25: nothing of practical size was missed
    underpowered         it holds 1 and reaches further, or there is none for want of three seeds; or the runs
                         are too small to decide anything, whatever it holds
    diverged             a run of either arm diverged: what the lucky ones reached is shown, decides nothing
    None                 by `target`; in seconds on a CPU (others may share it) or on unlike hardware; unknown
"""

from dataclasses import replace

from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.arms import Arm
from judge.curve import crossing, mean_curve
from judge.declared import NOTHING, Declared
from judge.isoloss import isoloss
from judge.ladder import RUNGS, SEEDS, Censored, Ladder, Speedup
from judge.row import Row, blank, noted, on_axes, too_small, unknown
from judge.timing import unsteady, untimed


def ladder_of(arm: Arm) -> Ladder:
    return Ladder({length: arm.losses(length).tolist() for length in arm.lengths})


def matched_length(baseline: Arm, newcomer: Arm) -> int | None:
    """T for `matched`: the newcomer's longest length below the top of the ladder, so that a gain can show."""
    below = [length for length in newcomer.lengths if length < max(baseline.lengths, default=0)]
    return max(below or newcomer.lengths, default=None)


def reverse_length(baseline: Arm, newcomer: Arm) -> int | None:
    """T for `reverse`: the baseline's shortest length that covers the newcomer's ladder, or else its longest."""
    covering = [length for length in baseline.lengths if length >= max(newcomer.lengths, default=0)]
    return min(covering) if covering else max(baseline.lengths, default=None)


def matched(
    baseline: Arm, newcomer: Arm, length: int | None = None, guarded: bool = True, declared: Declared = NOTHING
) -> list[Row]:
    """A row for each axis.

    length: T in updates, where a claim has fixed it; None: `matched_length`.
    guarded: runs that are `too_small` decide nothing. A paper's own protocol is exempt.
    declared: a sigma for arms with fewer than three seeds.
    """
    row = blank("matched", baseline, newcomer, length or matched_length(baseline, newcomer))
    return _by_ladder(row, baseline, newcomer, guarded, declared)


def reverse(
    baseline: Arm, newcomer: Arm, length: int | None = None, guarded: bool = True, declared: Declared = NOTHING
) -> list[Row]:
    """A row for each axis; without a ladder of the newcomer's it would only repeat `matched`."""
    row = blank("reverse", baseline, newcomer, length or reverse_length(baseline, newcomer))
    if len(newcomer.lengths) < RUNGS:
        count = len(newcomer.lengths)
        return unknown(row, f"needs a ladder of {newcomer.label}: {RUNGS} lengths or more, not {count}")
    return _by_ladder(row, newcomer, baseline, guarded, declared)


RULES = {rule.__name__: rule for rule in (matched, reverse, isoloss)}  # those that can decide


def _by_ladder(row: Row, ladder: Arm, point: Arm, guarded: bool, declared: Declared) -> list[Row]:
    """`point` ran for T updates: how many times its cost would `ladder` need for the same loss?"""
    length = row.length
    if length not in point.lengths or not ladder.lengths:
        return unknown(row, f"no finished run of {(ladder if length in point.lengths else point).label}")
    rungs = ladder_of(ladder)
    steps = rungs.reach(point.losses(length).tolist(), length, declared.sigma)
    ladder_runs = [run for rung in ladder.lengths for run in ladder.finished(rung)]
    row = replace(row, seeds=int(min(len(point.losses(length)), *rungs.counts)))
    if len(rungs.lengths) < RUNGS:
        lengths = f"{RUNGS} lengths or more around {length} updates, not {len(rungs.lengths)}"
        row = noted(row, f"needs a ladder of {ladder.label}: {lengths}; so far it says above or below")
    elif not rungs.falls:
        row = noted(row, f"the loss of {ladder.label} does not fall with length: no length fits a loss")
    if row.seeds < SEEDS and declared.sigma:
        row = noted(row, f"sigma of arms with fewer than {SEEDS} seeds: {declared.sigma}")
    elif row.seeds < SEEDS:
        row = noted(row, f"needs {SEEDS} seeds at every length for an interval, not {row.seeds}")
    small = too_small(length, ladder_runs + point.finished(length)) if guarded else None
    if small:
        row = replace(noted(row, small), decides=False)

    return on_axes(row, steps, ladder, point, (ladder.lengths, [length]))


def target(baseline: Arm, newcomer: Arm, length: int | None, loss: float) -> list[Row]:
    """A row for each axis: the cost of the baseline's mean curve, up to a loss, over that of the newcomer's.

    Both at one length, for a crossing depends on the schedule. An arm that never got there censors the ratio.
    """
    shared = blank("target", baseline, newcomer, length)
    if length not in baseline.lengths or length not in newcomer.lengths:
        return unknown(shared, f"not both finished at {length} updates")
    crossed = baseline.finished(length) + newcomer.finished(length)
    curves = {arm.label: mean_curve(arm.finished(length)) for arm in (baseline, newcomer)}
    reached = {label: crossing(curve, loss) for label, curve in curves.items()}
    shared = replace(shared, seeds=min(len(arm.losses(length)) for arm in (baseline, newcomer)))
    missed = [label for label, point in reached.items() if point is None]
    for label in missed:
        shared = noted(shared, f"{label} never reached {loss:.4f}")
    if len(missed) == 2:
        return unknown(shared, "so that there is nothing to compare")

    # Who never got there needs more than its whole run.
    censored: Censored = None
    if missed:
        censored = "above" if missed == [baseline.label] else "below"
    theirs, ours = (reached[arm.label] or curves[arm.label][-1] for arm in (baseline, newcomer))
    rows = []
    for axis in AXES:
        row, costs = replace(shared, axis=axis), (getattr(theirs, axis), getattr(ours, axis))
        if axis == "seconds" and untimed(crossed) and (why := unsteady([baseline, newcomer])):
            rows += unknown(row, why)
        elif all(costs):
            rows.append(replace(row, speedup=Speedup(costs[0] / costs[1], censored=censored)))
        else:
            rows += unknown(row, f"no figure in {TITLE[axis]}: some run does not know them")
    return rows
