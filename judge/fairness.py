"""Sentences on what makes a comparison unfair, and on single runs, from the runs' folders."""

from collections import Counter
from collections.abc import Iterator, Sequence

from conventions.config_keys import plain
from judge.arms import Arm, mismatches
from judge.records import Run

# `auto` hides these in the config: only the manifest knows.
HIDDEN = {
    **{"dtype": ("resolved", "dtype"), "ranks": ("ranks",), "data.fingerprint": ("data", "fingerprint")},
    "weights": ("origin", "weights"),  # of foreign runs whose last loss is of averaged weights
}
UNEQUAL_TUNING = "unequal tuning: "  # begins each sentence on it
SEEDS = "seed (the order of the data)"


def unlike(base: Arm, arm: Arm, length: int | None, other_length: int | None = None) -> dict[str, tuple[str, str]]:
    """Return {key: (the baseline's, the other's)} of what differs between two compared arms but should not.

    Every key of the config outside the optimizer counts (final learning rate, warm-up, batch, context, clipping,
    evaluation), and what only manifests know: precision, ranks, tokens, and the seeds that finished at `length` updates
    (of the other arm at `other_length`, where that is another). Unlike devices are a matter of seconds alone.
    """
    pairs = {key: (plain(theirs), plain(ours)) for key, theirs, ours in mismatches(base, arm)}
    for key, way in HIDDEN.items():
        pairs.setdefault(key, (_kinds(base, *way), _kinds(arm, *way)))
    other_length = length if other_length is None else other_length
    if length in base.lengths and other_length in arm.lengths:
        pairs[SEEDS] = (_seeds(base, length), _seeds(arm, other_length))
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and all(pair)}


def unfair(base: Arm, arm: Arm, length: int | None, other_length: int | None = None) -> Iterator[str]:
    """Yield the differences of `unlike` as sentences."""
    for key, (theirs, ours) in unlike(base, arm, length, other_length).items():
        yield f"{key} differs: {theirs} for {base.label}, {ours} for {arm.label}"


def endings(runs: Sequence[Run]) -> Iterator[str]:
    """Say why each run without a final loss has none."""
    for run in runs:
        error = f": {run.manifest['error']}" if run.manifest.get("error") else ""
        if run.status in ("diverged", "failed"):
            yield f"{run.name} {run.status} at step {run.step} of {run.steps}{error}"
        elif run.status == "cut":
            yield f"{run.name} was cut off at step {run.step} of {run.steps}: resume=true goes on with it"
        elif run.status == "running":
            yield f"{run.name} is still running, at step {run.step} of {run.steps}"
        elif run.final_loss is None:
            yield f"{run.name} finished without a validation loss of its last weights: left out"


def provenance(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what is unsure: uncommitted changes, several commits or none, and what is unknown of foreign runs."""
    foreign = [run for run in runs if run.known("origin")]
    if foreign:
        places = sorted({str(run.known("origin", "repository") or run.known("origin", "format")) for run in foreign})
        unknown = dict.fromkeys(str(key) for run in foreign for key in run.known("origin", "unknown") or ())
        yield f"trained elsewhere ({', '.join(places)}), and unknown of some or all: {', '.join(unknown)}"
    early = sum((run.known("origin", "planned_steps") or 0) > run.steps for run in foreign)
    if early:
        are = "runs are" if early > 1 else "run is"
        yield f"{early} {are} stated before the end of the schedule: not fully decayed"
    dirty = sum(bool(run.known("git", "dirty")) for run in runs)
    if dirty:
        yield f"{dirty} of {len(runs)} runs trained from a working tree with uncommitted changes"
    commits = Counter(str(run.known("git", "commit"))[:7] for run in runs if run.known("git", "commit"))
    if len(commits) > 1:
        listed = ", ".join(f"{commit} ({count})" for commit, count in commits.items())
        yield f"the runs come from different commits: {listed}"
    if nameless := [run for run in runs if not run.known("origin") and not run.known("git", "commit")]:
        yield (
            f"{len(nameless)} of {len(runs)} runs name no commit: their code is not known "
            "(train in a git checkout, or set HALFSTEP_COMMIT)"
        )


def _seeds(arm: Arm, length: int | None) -> str:
    finished = arm.finished(length) if length is not None else []
    return ", ".join(str(run.seed) for run in finished) if all(run.knows_seed for run in finished) else ""


def _kinds(arm: Arm, *way: str) -> str:
    kinds = (run.known(*way) for run in arm.runs if run.rows)
    return ", ".join(sorted({str(kind) for kind in kinds if kind is not None}))
