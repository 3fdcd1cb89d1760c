"""Says whose seconds may be compared: a clock also counts whatever else the machine was doing."""

from collections.abc import Sequence
from typing import Any

from judge.arms import Arm
from judge.records import Run

STEADY = 1.25  # between runs of one arm, whose steps are the same work
UNEVEN = 3  # a device of its own may be this uneven before it is mentioned


def device_of(run: Run) -> str:
    """Name the devices that a run was computed on, in their order."""
    return ", then ".join(dict.fromkeys(_device(part.get("device")) for part in stretches(run)))


def stretches(run: Run) -> list[dict[str, Any]]:
    """List the stretches of a run that its rows come from, each with its step, device, ranks and what was resolved.

    A stretch that ended before its first checkpoint was computed again by the next, and is left out.
    """
    kept: list[dict[str, Any]] = []
    for part in (run.known("began"), *(run.known("resumes") or ())):
        if isinstance(part, dict):
            begins = part.get("step")  # older manifests do not say
            kept = [each for each in kept if None in (begins, each.get("step")) or each["step"] < begins] + [part]
    return kept or [{key: run.known(key) for key in ("device", "ranks", "resolved")}]


def _resolved(run: Run, key: str) -> set[str]:
    """Collect what a key was resolved to in the stretches of a run that know it."""
    resolved = [part.get("resolved") for part in stretches(run)]
    return {str(each[key]) for each in resolved if isinstance(each, dict) and key in each}


def _device(entry: Any) -> str:
    entry = entry if isinstance(entry, dict) else {}
    name, count = entry.get("name") or entry.get("type") or "an unknown device", entry.get("count") or 1
    return f"{count} x {name}" if count > 1 else str(name)


def untimed(runs: Sequence[Run]) -> str | None:
    """Say why the seconds of these runs decide nothing; None if they may.

    Without its name nobody knows that a device is the other one: a bare "cuda" is no name.
    """
    devices = sorted({_device(part.get("device")) for run in runs for part in stretches(run)})
    if len(devices) > 1:
        return f"run on unlike hardware ({'; '.join(devices)}): no verdict in seconds"
    for run in runs:
        if changed := [key for key in ("dtype", "compile", "kernels") if len(_resolved(run, key)) > 1]:
            return f"timed, in {run.name}, before and after {' and '.join(changed)} changed: no verdict in seconds"
    if len({each for run in runs for each in _resolved(run, "compile")}) > 1:
        return "timed partly with and partly without torch.compile: no verdict in seconds"
    if any(run.known("device", "type") == "cpu" for run in runs):
        return "timed on a CPU that others may share: no verdict in seconds"
    if not all((part.get("device") or {}).get("name") for run in runs for part in stretches(run)):
        return "run on a device that is unknown: no verdict in seconds"
    return None


def unsteady(arms: Sequence[Arm]) -> str | None:
    """Say why seconds that decide nothing are not even shown; None if they may be."""
    if why := _slower(arms, STEADY):
        return f"{why}: something else kept the machine busy, and no ratio of seconds is shown"
    return None


def uneven(arms: Sequence[Arm]) -> str | None:
    """Say what to mention of seconds that do decide: that the runs of one arm took very unlike times for a step."""
    if why := _slower(arms, UNEVEN):
        return f"{why}: look for what kept the device busy before you trust the seconds"
    return None


def _slower(arms: Sequence[Arm], most: float) -> str | None:
    """Name the first arm with one run's step over `most` times as long as another's."""
    for arm in arms:
        finished = [run for run in arm.runs if run.final_loss is not None]
        steps = [seconds / run.step for run in finished if (seconds := run.last("seconds/total"))]
        if steps and max(steps) > most * min(steps):
            return f"a step of {arm.label} took {max(steps) / min(steps):.1f} times as long in one run as in another"
    return None
