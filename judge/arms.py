"""Which runs belong together, which may be compared, and which of an optimizer's settings stands for it.

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
from judge.ladder import SEEDS
from judge.records import Run

# What varies within an arm, what decides nothing about the weights, and the data (a fingerprint tells it).
INDIFFERENT = (
    *("seed", "steps"),
    *("run_dir", "resume", "tracker", "launcher", "checkpoint", "study"),
    *("log", "eval.every", "target_loss", "allow_targets", "data"),
)
# How a run is computed, which decides its last bits at most; fairness looks at these.
MACHINE = ("device", "dtype", "compile", "batch.micro")
# Losses of another model, on other windows, or after updates of another size are never compared.
INCOMPARABLE = ("model", "context", "batch.tokens", "eval.tokens")


@dataclass(frozen=True)
class Arm:
    """Runs alike but for seed and length, whatever became of them."""

    optimizer: str
    settings: dict[str, Any]  # dotted config keys that all its runs share
    runs: list[Run]
    label: str  # the optimizer's name, and what tells its arms apart

    @property
    def lengths(self) -> list[int]:
        """Lengths, in updates, with a final loss."""
        return sorted({run.steps for run in self.runs if run.final_loss is not None})

    def finished(self, length: int) -> list[Run]:
        """The runs of one length that have a final loss, by seed."""
        runs = [run for run in self.runs if run.steps == length and run.final_loss is not None]
        return sorted(runs, key=lambda run: run.seed)

    def losses(self, length: int) -> np.ndarray:
        """Final validation losses over seeds, in nats per token."""
        return np.array([run.final_loss for run in self.finished(length)], dtype=float)

    def diverged(self, length: int) -> list[Run]:
        return [run for run in self.runs if run.steps == length and run.status == "diverged"]

    def mean_loss(self, length: int) -> float:
        """Mean over seeds; infinite if one of them diverged, for the others were only lucky."""
        losses = self.losses(length)
        return math.inf if self.diverged(length) or not len(losses) else float(losses.mean())


def settings(run: Run) -> dict[str, Any]:
    """The config keys that make the run's arm, dotted."""
    return {key: value for key, value in flatten(run.config).items() if not within(key, INDIFFERENT)}


def group_arms(runs: Sequence[Run]) -> list[Arm]:
    """All arms, sorted by label. Of the same seed and length twice, the newest that finished counts."""
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
    """(key, value, other value) where two arms differ outside the optimizer: a fair comparison has none."""
    keys = [key for key in differing_keys([one.settings, other.settings]) if not key.startswith("optimizer.")]
    return [(key, one.settings.get(key), other.settings.get(key)) for key in keys]


def refuse_incomparable(runs: Sequence[Run]) -> None:
    """Raises ValueError, naming the key, if the runs trained or evaluated on different things.

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
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared, {key} is {plain(other.get(key))} "
                f"in one and {plain(identity.get(key))} in the other: keep them in separate folders, or give "
                "a narrower one"
            )


def find_optimizer(arms: Sequence[Arm], word: str) -> str:
    """The optimizer that a person means: by its name, its class path, or what run folders call its class.

    Raises ValueError with the nearest names where there is none, and with both where two classes share a label.
    """
    names = sorted({arm.optimizer for arm in arms})
    if word in names:
        return word
    found = [name for name in names if optimizer_label({"_target_": name}) == word]
    if len(found) > 1:
        raise ValueError(f"{word!r} is the label of {' and of '.join(found)}: give one of these")
    if not found:
        raise ValueError(f"no run of the optimizer {word!r} in this folder: {nearest(word, names)}")
    return found[0]


def find_arms(arms: Sequence[Arm], optimizer: str) -> list[Arm]:
    return [arm for arm in arms if arm.optimizer == optimizer]


def best_arm(arms: Sequence[Arm], length: int | None) -> Arm:
    """The lowest mean final loss at a length; where none has it, at the longest that any of them finished.

    An arm with fewer seeds than its siblings' (three are enough) does not stand: it may only have been lucky.
    """
    if not any(length in arm.lengths for arm in arms):
        length = max((arm.lengths[-1] for arm in arms if arm.lengths), default=0)
    assert length is not None
    enough = min(SEEDS, max(len(arm.losses(length)) for arm in arms))
    able = [arm for arm in arms if len(arm.losses(length)) >= enough]
    return min(able, key=lambda arm: (arm.mean_loss(length), arm.label))


def tried(arms: Sequence[Arm], optimizer: str) -> int:
    """How many of an optimizer's arms got as far as an outcome: what the best of them was chosen from."""
    outcomes = {"finished", "diverged"}
    mine = [arm for arm in arms if arm.optimizer == optimizer]
    return sum(any(run.status in outcomes for run in arm.runs) for arm in mine)


def common_length(arms: Sequence[Arm], baseline: str) -> int | None:
    """The longest length that the baseline and the most other optimizers finished; None if there is none."""
    lengths: dict[str, set[int]] = {}
    for arm in arms:
        lengths.setdefault(arm.optimizer, set()).update(arm.lengths)
    others = [held for optimizer, held in lengths.items() if optimizer != baseline]
    return max(
        lengths.get(baseline, ()),
        key=lambda length: (sum(length in held for held in others), length),
        default=None,
    )


def _identity(run: Run) -> dict[str, Any]:
    kept = {key: value for key, value in settings(run).items() if within(key, INCOMPARABLE)}
    return kept | {"data.fingerprint": run.known("data", "fingerprint")}


def without_copies(runs: Sequence[Run], one_arm: bool = False) -> list[Run]:
    """The newest finished run of each settings, seed and length, and whatever has not finished.

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
