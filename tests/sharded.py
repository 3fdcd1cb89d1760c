"""What tests/test_sharding.py compares, computed by ranks: python -m tests.sharded compare FOLDER WORLDS NAMES

A name is one of configs/optimizer, or a class, and overrides may follow it. For each the ranks train the tiny model
twice, once each of them whole and once with the work shared out (compare), or go on from one another's checkpoints
(resume). What a rank found goes to FOLDER/<world>-<rank>.pt. The ranks are forked from a process that has imported
everything.
"""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim imports it at the first step; here once for all ranks
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import optimizers
from harness import checkpoint
from harness.distributed import Ranks, join
from harness.recorder import state_bytes
from harness.sharding import Sharding, share_out
from optimizers.plan import OptimizerPlan, check_optimizer, overrides_of
from tests.command import composed
from tests.tiny import tiny_batch, tiny_model, tiny_objective

STEPS = 23  # past two refreshes of every 10th
TOKENS = 128


def plan_of(name: str) -> OptimizerPlan:
    word, *overrides = name.split()
    cfg = composed(*overrides_of(word), *overrides)
    return check_optimizer(cfg["optimizer"], cfg["allow_targets"])


class Training:
    """A tiny model that ranks train."""

    def __init__(self, name: str, ranks: Ranks, wanted: bool) -> None:
        self.ranks, self.model = ranks, tiny_model()
        plan = plan_of(name)
        self.optimizer = plan.build(self.model)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self.sharding: Sharding = share_out(wanted, plan, self.optimizer, self.model, TOKENS, ranks)
        self.printed = out.getvalue()
        self.objective = tiny_objective(self.model, micro=2, ranks=ranks)
        self.objective.sharding, self.objective.ledger.total = self.sharding, self.sharding.total
        self.losses: list[float] = []

    def train(self, steps: int, start: int = 0) -> None:
        for step in range(start, start + steps):
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 - step / 50)
            batch = (part[self.ranks.rank :: self.ranks.world] for part in tiny_batch(step))
            self.optimizer.step(self.objective.bind(step, tuple(batch)))  # type: ignore[arg-type]
            self.sharding.gather()
            self.losses.append(self.objective.record.loss.item())  # type: ignore[union-attr]

    def found(self) -> dict[str, Any]:
        kept = state_bytes(self.optimizer)
        with self.sharding.gathered(optimizers.eval_weights(self.optimizer)):
            evaluated = [p.detach().clone() for p in self.model.parameters()]
        return {
            "losses": self.losses,
            "weights": [p.detach().clone() for p in self.model.parameters()],
            "evaluated": evaluated,
            "metrics": {k: float(v) for k, v in optimizers.metrics(self.optimizer, self.sharding.each).items()},
            "flops": self.objective.ledger.at(STEPS),
            "state": self.sharding.total(kept),
            "kept": kept,
            "facts": self.sharding.facts(),
            "printed": self.printed,
        }

    def save(self, folder: Path, step: int) -> None:
        evaluated = self.sharding.gathered(optimizers.eval_weights(self.optimizer))
        checkpoint.save(folder, step, self.model, self.optimizer, {}, evaluated, self.sharding)

    def load(self, folder: Path) -> None:
        checkpoint.load(checkpoint.newest(folder)[0], self.model, self.optimizer, self.sharding)  # type: ignore[index]


def trained(name: str, ranks: Ranks, wanted: bool) -> dict[str, Any]:
    training = Training(name, ranks, wanted)
    training.train(STEPS)
    return training.found()


def compare(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = [trained(name, ranks, wanted) for wanted in (False, True)]
        except Exception as error:
            raise RuntimeError(name) from error
    torch.save(found, folder / f"{ranks.world}-{ranks.rank}.pt")


def resume(folder: Path, names: list[str]) -> None:
    """Train on for seven steps from the newest checkpoint of each, if there is one, and write another.

    Two ranks also begin a second time, stop and go on themselves, and train all the steps without a stop.
    """
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    found = {name: seven_more(name, folder / name, ranks) for name in names}
    if ranks.world == 2:
        again = {name: [seven_more(name, folder / f"again-{name}", ranks) for _ in range(2)] for name in names}
        straight = {}
        for name in names:
            training = Training(name, ranks, wanted=True)
            training.train(14)
            at_14 = [p.detach().clone() for p in training.model.parameters()]
            training.train(7, 14)
            straight[name] = {**training.found(), "at 14": at_14}
        torch.save([again, straight], folder / f"straight-{ranks.rank}.pt")
    torch.save(found, folder / f"{ranks.world}-{ranks.rank}.pt")


def seven_more(name: str, place: Path, ranks: Ranks) -> dict[str, Any]:
    training = Training(name, ranks, wanted=True)
    newest = checkpoint.newest(place)
    start = newest[1]["step"] if newest else 0
    if newest:
        training.load(place)
    training.train(7, start)
    training.save(place, start + 7)
    return training.found()


if __name__ == "__main__":
    assert os.environ.get("OMP_NUM_THREADS") == "1"
    what, folder, worlds, names = sys.argv[1:]
    for name in names.split(","):
        plan_of(name)  # composed here, once for all ranks
    rendezvous = {"run_id": "sharded", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    for world in map(int, worlds.split(",")):
        config = LaunchConfig(1, 1, world, start_method="fork", max_restarts=0, **rendezvous)
        elastic_launch(config, {"compare": compare, "resume": resume}[what])(Path(folder), names.split(","))
