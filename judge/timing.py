"""Whose seconds may be compared: a clock on the wall counts what else a machine was doing."""

from collections.abc import Sequence

from judge.arms import Arm
from judge.records import Run

STEADY = 1.25  # between runs of one arm, whose steps are the same work


def device_of(run: Run) -> str:
    name = run.known("device", "name") or run.known("device", "type") or "an unknown device"
    count = run.known("device", "count") or 1
    return f"{count} x {name}" if count > 1 else str(name)


def untimed(runs: Sequence[Run]) -> str | None:
    """Why the seconds of these runs decide nothing; None if they may."""
    devices = sorted({device_of(run) for run in runs})
    if len(devices) > 1:
        return f"run on unlike hardware ({'; '.join(devices)}): no verdict in seconds"
    if not all(run.known("device") for run in runs):
        return "run on a device that is unknown: no verdict in seconds"
    if any(run.known("device", "type") == "cpu" for run in runs):
        return "timed on a CPU that others may share: no verdict in seconds"
    return None


def unsteady(arms: Sequence[Arm]) -> str | None:
    """Why seconds that decide nothing are not even shown; None if they may be."""
    for arm in arms:
        finished = [run for run in arm.runs if run.final_loss is not None]
        steps = [seconds / run.step for run in finished if (seconds := run.last("seconds/total"))]
        if steps and max(steps) > STEADY * min(steps):
            return (
                f"a step of {arm.label} took {max(steps) / min(steps):.1f} times as long in one run as in another: "
                "something else kept the machine busy, and no ratio of seconds is shown"
            )
    return None
