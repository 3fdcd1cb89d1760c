"""The speed-up of an optimizer over the baseline: its rules, its three axes, and the verdicts that they allow.

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
                         both end in "by less than 1.25" if it stays within .8 to 1.25
    no difference seen   it holds 1 and stays within .8 to 1.25: nothing of practical size was missed
    underpowered         it holds 1 and reaches further, or there is none for want of three seeds; or the runs
                         are too small to decide anything, whatever it holds
    diverged             more than one run in twenty of an arm diverged: what the lucky ones reached is shown and
                         decides nothing
    None                 by `target`; in seconds on a CPU (others may share it) or on unlike hardware; unknown
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.arms import Arm
from judge.contrast import Sample, paired_by_seed
from judge.curve import crossing, mean_curve
from judge.declared import NOTHING, Declared
from judge.estimate import Censored, Speedup
from judge.isoloss import isoloss
from judge.ladder import RUNGS, SECOND, Ladder
from judge.row import FEWEST_UPDATES, SMALL, Row, blank, noted, on_axes, too_small, unknown
from judge.spread import CONFIDENCE, SEEDS
from judge.timing import unsteady, untimed

SHORTEST_RUNG = FEWEST_UPDATES // 4  # updates


def ladder_of(arm: Arm, lengths: Sequence[int] = ()) -> Ladder:
    """Return the ladder of an arm's lengths, or of some of them."""
    return Ladder({length: arm.sample(length) for length in lengths or arm.lengths}, arm.warmup)


def rungs_of(arm: Arm, guarded: bool = True) -> tuple[list[int], list[str]]:
    """Return the lengths of an arm that are the rungs of its ladder, and notes on those that are left out.

    Where three rungs remain without them, rungs with fewer than three seeds are left out, for a ladder has no interval
    with them; so are, if guarded, rungs too short for the averages of curvature to warm up.
    """
    rungs, notes = arm.lengths, []
    why = {f"they have fewer than {SEEDS} seeds": [rung for rung in rungs if len(arm.losses(rung)) >= SEEDS]}
    if guarded:
        why |= {f"they have fewer than {SHORTEST_RUNG} updates": [rung for rung in rungs if rung >= SHORTEST_RUNG]}
    for reason, fit in why.items():
        kept = [rung for rung in rungs if rung in fit]
        if len(kept) >= RUNGS and kept != rungs:
            left = " and ".join(f"{rung:,}" for rung in rungs if rung not in kept)
            notes.append(f"the runs of {arm.label} for {left} updates are no rungs of its ladder: {reason}")
            rungs = kept
    return rungs, notes


def matched_length(baseline: Arm, newcomer: Arm) -> int | None:
    """Return T for `matched`: the newcomer's longest length below the top of the ladder, so that a gain can show.

    Lengths with fewer than three seeds do not count where there are others.
    """
    below = [length for length in newcomer.seeded if length < max(rungs_of(baseline)[0], default=0)]
    return max(below or newcomer.seeded, default=None)


def reverse_length(baseline: Arm, newcomer: Arm) -> int | None:
    """Return T for `reverse`: the baseline's longest length with room on the newcomer's ladder on both sides.

    The room is what "no difference seen" needs, a factor of 1.25. Without such a length it is the shortest that covers
    the ladder, or else the longest.
    """
    rungs = rungs_of(newcomer)[0]
    if not rungs:
        return max(baseline.seeded, default=None)
    inside = [length for length in baseline.seeded if rungs[0] * SMALL <= length <= rungs[-1] / SMALL]
    covering = [length for length in baseline.seeded if length >= rungs[-1]]
    return max(inside) if inside else min(covering) if covering else max(baseline.seeded, default=None)


def matched(
    baseline: Arm,
    newcomer: Arm,
    length: int | None = None,
    guarded: bool = True,
    declared: Declared = NOTHING,
    confidence: float = CONFIDENCE,
) -> list[Row]:
    """Return a row for each axis, by the baseline's ladder.

    length: T in updates, where a claim has fixed it; None: `matched_length`.
    guarded: runs that are `too_small` decide nothing. A paper's own protocol is exempt.
    declared: a sigma for arms with fewer than three seeds.
    """
    row = blank("matched", baseline, newcomer, length or matched_length(baseline, newcomer))
    return _by_ladder(row, baseline, newcomer, guarded, declared, confidence)


def reverse(
    baseline: Arm, newcomer: Arm, length: int | None = None, guarded: bool = True, declared: Declared = NOTHING
) -> list[Row]:
    """Return a row for each axis; without a ladder of the newcomer's it would only repeat `matched`."""
    row = blank("reverse", baseline, newcomer, length or reverse_length(baseline, newcomer))
    if len(newcomer.lengths) < RUNGS:
        count = len(newcomer.lengths)
        return unknown(row, f"needs a ladder of {newcomer.label}: {RUNGS} lengths or more, not {count}")
    return _by_ladder(row, newcomer, baseline, guarded, declared)


RULES = {rule.__name__: rule for rule in (matched, reverse, isoloss)}  # those that can decide


def _by_ladder(
    row: Row, ladder: Arm, point: Arm, guarded: bool, declared: Declared, confidence: float = CONFIDENCE
) -> list[Row]:
    """Return a row for each axis: how many times the cost of `point`, at T updates, `ladder` needs for its loss."""
    length = row.length
    if length not in point.lengths or not ladder.lengths:
        return unknown(row, f"no finished run of {(ladder if length in point.lengths else point).label}")
    lengths, left_out = rungs_of(ladder, guarded)
    rungs, losses = ladder_of(ladder, lengths), point.sample(length)
    steps = rungs.reach(losses, length, declared.sigma, confidence)
    ladder_runs = [run for rung in lengths for run in ladder.finished(rung)]
    count = len(losses.losses)
    row = replace(row, seeds=int(min(count, *rungs.counts)), notes=(*row.notes, *left_out))
    full = [rung for rung in lengths if len(ladder.losses(rung)) >= SEEDS]
    if not steps.interval and 0 < len(full) < len(lengths) and count >= SEEDS:
        firm = ladder_of(ladder, full).reach(losses, length, None, confidence)
        steps = replace(steps, low=firm.low, high=firm.high)
        at = " and ".join(f"{rung:,}" for rung in full)
        row = noted(row, f"the interval is of the runs of {ladder.label} for {at} updates, which have {SEEDS} seeds")
    for remark in [*rungs.remarks(ladder.label), *_beside(row, rungs, losses, steps, confidence)]:
        row = noted(row, remark)
    if len(rungs.lengths) < RUNGS:
        needed = f"{RUNGS} lengths or more around {length} updates, not {len(rungs.lengths)}"
        row = noted(row, f"needs a ladder of {ladder.label}: {needed}; so far it says above or below")
    elif not rungs.falls:
        row = noted(row, f"the loss of {ladder.label} does not fall with length: no length fits a loss")
    if row.seeds < SEEDS and declared.sigma:
        row = noted(row, f"sigma of arms with fewer than {SEEDS} seeds: {declared.sigma}")
    elif row.seeds < SEEDS:
        row = noted(row, f"needs {SEEDS} seeds at every length for an interval, not {row.seeds}")
    small = too_small(length, ladder_runs + point.finished(length)) if guarded else None
    if small:
        row = replace(noted(row, small), decides=False)

    return on_axes(row, steps, ladder, point, (lengths, [length]), confidence)


def _beside(row: Row, rungs: Ladder, losses: Sample, steps: Speedup, confidence: float) -> Iterator[str]:
    """Yield what the second law answers, and whether shared seeds are paired."""
    length = row.length or 0
    second = rungs.second.reach(losses, length)
    if second.value and not second.censored and len(rungs.lengths) >= RUNGS:
        ratio = second.inverse() if row.rule == "reverse" else second
        yield f"{SECOND}, parabolas in log T, gives {row.arm} {ratio} in steps ({row.rule})"
    if correlation := rungs.correlation(losses, length * (steps.value or 1.0), confidence):
        yield paired_by_seed(row.arm, correlation)


def target(baseline: Arm, newcomer: Arm, length: int | None, loss: float) -> list[Row]:
    """Return a row for each axis: the cost of the baseline's mean curve, up to a loss, over that of the newcomer's.

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
