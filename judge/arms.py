"""Arms of runs: which runs belong together, which may be compared, and which arm stands for its optimizer.

An arm is the runs that are alike in everything but seed, length and where they are kept. A folder often holds
several arms of one optimizer: a sweep over its learning rate, for one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conventions.config_keys import differing_keys, flatten, optimizer_label, plain, within
from conventions.sentence import nearest
from judge.contrast import Sample
from judge.ladder import RUNGS
from judge.records import Run
from judge.spread import SEEDS, surely_lower
from judge.windows import mean_parts

# What varies within an arm, what decides nothing about the weights, and the data (a fingerprint tells it).
INDIFFERENT = (
    *("seed", "steps"),
    *("run_dir", "resume", "tracker", "launcher", "checkpoint", "study", "shard_optimizer"),
    *("log", "eval.every", "target_loss", "allow_targets", "data"),
)
# How a run is computed: these change its last bits and its seconds, and are no setting.
LAST_BITS = ("device", "compile", "batch.micro")
MACHINE = (*LAST_BITS, "dtype")
# Losses of another model, on other windows, or after updates of another size are never compared.
INCOMPARABLE = ("model", "context", "batch.tokens", "eval.tokens")
FIRST_WEIGHTS = ("model.init_scale",)  # another start is no other model: it is compared, and shown where it differs
MOST_DIVERGED = 0.05  # the share of an arm's runs that may diverge before the others are only the lucky ones


@dataclass(frozen=True)
class Arm:
    """An arm holds runs that are alike but for seed and length, whatever became of them."""

    optimizer: str
    settings: dict[str, Any]  # dotted config keys that all its runs share
    runs: list[Run]
    label: str  # the optimizer's name, and what tells its arms apart

    @property
    def lengths(self) -> list[int]:
        """Return the lengths, in updates, that have a final loss."""
        return sorted({run.steps for run in self.runs if run.final_loss is not None})

    @property
    def seeded(self) -> list[int]:
        """Return the lengths with three seeds or more; where none has three, those with the most that any has."""
        counts = {length: len(self.losses(length)) for length in self.lengths}
        enough = min(SEEDS, max(counts.values(), default=0))
        return [length for length, count in counts.items() if count >= enough]

    def finished(self, length: int) -> list[Run]:
        """Return the runs of one length that have a final loss, by seed."""
        runs = [run for run in self.runs if run.steps == length and run.final_loss is not None]
        return sorted(runs, key=lambda run: run.seed)

    def losses(self, length: int) -> np.ndarray:
        """Return the final validation losses over seeds, in nats per token."""
        return np.array([run.final_loss for run in self.finished(length)], dtype=float)

    def sample(self, length: int) -> Sample:
        """Return the final losses with their seeds, where these are known, and the parts of the evaluation."""
        runs = self.finished(length)
        seeds = tuple(run.seed for run in runs) if all(run.knows_seed for run in runs) else ()
        return Sample(self.losses(length), seeds, mean_parts([run.parts for run in runs]))

    @property
    def warmup(self) -> float:
        """Return the updates of warm-up, where all runs have the same number; 0 where it is a share of the length."""
        fixed, *others = (run.section("schedule").get("warmup") for run in self.runs)
        if any(other != fixed for other in others):
            return 0
        return fixed if isinstance(fixed, int | float) and 1 <= fixed < min(self.lengths, default=0) else 0

    def diverged(self, length: int) -> list[Run]:
        """Return the runs of one length that diverged."""
        return [run for run in self.runs if run.steps == length and run.status == "diverged"]

    def mean_loss(self, length: int) -> float:
        """Return the mean over seeds; infinite if more of them diverged than `often` allows."""
        losses = self.losses(length)
        return math.inf if often(len(self.diverged(length)), len(losses)) or not len(losses) else float(losses.mean())


def often(diverged: int, finished: int) -> bool:
    """Return whether more than one run in twenty diverged: what the others reached is then their luck."""
    return diverged > MOST_DIVERGED * (diverged + finished)


def settings(run: Run) -> dict[str, Any]:
    """Return the config keys that make the run's arm, dotted."""
    return {key: value for key, value in flatten(run.config).items() if not within(key, (*INDIFFERENT, *LAST_BITS))}


def group_arms(runs: Sequence[Run]) -> list[Arm]:
    """Return all arms, sorted by label. Of the same seed and length twice, the newest that finished counts."""
    groups: dict[str, list[Run]] = {}
    for run in without_copies(runs):
        groups.setdefault(repr(sorted(settings(run).items())), []).append(run)
    by_optimizer: dict[str, list[list[Run]]] = {}
    for group in groups.values():
        by_optimizer.setdefault(group[0].optimizer, []).append(group)

    arms = []
    for optimizer, siblings in by_optimizer.items():
        differing = differing_keys([settings(group[0]) for group in siblings])
        for group in siblings:
            chosen = settings(group[0])
            marks = [f"{key.removeprefix('optimizer.')}={plain(chosen.get(key))}" for key in differing]
            arms.append(Arm(optimizer, chosen, group, " ".join([optimizer, *marks])))
    return sorted(arms, key=lambda arm: arm.label)


def mismatches(one: Arm, other: Arm) -> list[tuple[str, Any, Any]]:
    """Return (key, value, other value) where two arms differ outside the optimizer: a fair comparison has none."""
    keys = [key for key in differing_keys([one.settings, other.settings]) if not key.startswith("optimizer.")]
    return [(key, one.settings.get(key), other.settings.get(key)) for key in keys]


def refuse_incomparable(runs: Sequence[Run]) -> None:
    """Raise ValueError, naming the key, if the runs trained or evaluated on different things.

    Nor are runs of ours compared with foreign ones, whose data nobody has fingerprinted.
    """
    ours, foreign = ([run for run in runs if bool(run.known("origin")) is foreign] for foreign in (False, True))
    if ours and foreign:
        raise ValueError(
            f"{ours[0].folder} was trained here and {foreign[0].folder} elsewhere: they are never compared; "
            "keep them in separate folders, or give a narrower one"
        )
    identities = [(run, _identity(run)) for run in runs if run.rows]
    for run, identity in identities[1:]:
        first, other = identities[0]
        for key in differing_keys([other, identity]):
            by_size = "; python -m scripts.public scale takes several models" * within(key, ["model"])
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared, {key} is {plain(other.get(key))} "
                f"in one and {plain(identity.get(key))} in the other: keep them in separate folders, or give "
                f"a narrower one{by_size}"
            )


def find_optimizer(arms: Sequence[Arm], word: str) -> str:
    """Return the optimizer that a person means: by its name, its class path, or what run folders call its class.

    Raises ValueError with the nearest names where there is none, and with both where two classes share a label.
    """
    names = sorted({arm.optimizer for arm in arms})
    if word in names:
        return word
    matches = [name for name in names if optimizer_label({"_target_": name}) == word]
    if len(matches) > 1:
        raise ValueError(f"{word!r} is the label of {' and of '.join(matches)}: give one of these")
    if not matches:
        raise ValueError(f"no run of the optimizer {word!r} in this folder: {nearest(word, names)}")
    return matches[0]


def find_arms(arms: Sequence[Arm], optimizer: str) -> list[Arm]:
    """Return the arms of one optimizer."""
    return [arm for arm in arms if arm.optimizer == optimizer]


def best_arm(arms: Sequence[Arm], length: int | None, ladder: bool = False) -> Arm:
    """Return the arm with the lowest mean final loss at a length.

    Where none has three seeds there, it is the nearest length at which one has; without any, the longest finished.
    An arm with fewer seeds than its siblings' (three are enough) does not stand: it may only have been lucky.
    ladder: an arm that has a ladder stands, unless the lowest one is lower by more than chance (Welch's t, 95 %).
    """
    full = {own for arm in arms for own in arm.seeded if len(arm.losses(own)) >= SEEDS}
    if length is not None and full and length not in full:
        wanted = length
        length = min(full, key=lambda own: abs(math.log(own / wanted)))
    elif not any(length in arm.lengths for arm in arms):
        length = max((arm.lengths[-1] for arm in arms if arm.lengths), default=0)
    assert length is not None
    enough = min(SEEDS, max(len(arm.losses(length)) for arm in arms))
    able = [arm for arm in arms if len(arm.losses(length)) >= enough]
    best, *others = sorted(able, key=lambda arm: (arm.mean_loss(length), arm.label))
    if ladder and len(best.seeded) < RUNGS:
        for arm in others:
            if len(arm.seeded) >= RUNGS and not surely_lower(best.losses(length).tolist(), arm.losses(length).tolist()):
                return arm
    return best


def tried(arms: Sequence[Arm], optimizer: str) -> int:
    """Return how many of an optimizer's arms got as far as an outcome: what the best of them was chosen from."""
    outcomes = {"finished", "diverged"}
    mine = [arm for arm in arms if arm.optimizer == optimizer]
    return sum(any(run.status in outcomes for run in arm.runs) for arm in mine)


def common_length(arms: Sequence[Arm], baseline: str) -> int | None:
    """Return the length at which the baseline is best compared with the others; None if it finished none.

    That is where the most of them, and the baseline, have three seeds; then where the most have any; then where there
    are more seeds; then the longest.
    """
    seeds: dict[str, dict[int, int]] = {}
    for arm in arms:
        own = seeds.setdefault(arm.optimizer, {})
        own.update({length: max(len(arm.losses(length)), own.get(length, 0)) for length in arm.lengths})
    base = seeds.pop(baseline, {})

    def weight(length: int) -> tuple[int, int, int, int]:
        paired = [min(SEEDS, base[length], own.get(length, 0)) for own in seeds.values()]
        return sum(each >= SEEDS for each in paired), sum(each > 0 for each in paired), sum(paired), length

    return max(base, key=weight, default=None)


def _identity(run: Run) -> dict[str, Any]:
    kept = {k: v for k, v in settings(run).items() if within(k, INCOMPARABLE) and not within(k, FIRST_WEIGHTS)}
    return kept | {"data.fingerprint": run.known("data", "fingerprint")}


def without_copies(runs: Sequence[Run], one_arm: bool = False) -> list[Run]:
    """Return the newest finished run of each settings, seed and length, and whatever has not finished.

    one_arm: the runs are of one arm, however they were computed: a seed is one sample, on however many machines it ran.
    """
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.final_loss is not None, str(run.manifest.get("ended")))):
        if run.final_loss is None:
            chosen[str(run.folder)] = run
        else:
            own = None if one_arm else sorted(settings(run).items())
            chosen[repr((own, run.seed, run.steps))] = run
    return sorted(chosen.values(), key=lambda run: str(run.folder))
