"""Trains a model on a task for a fixed budget, by the Objective and the schedules of runs, and asks it for logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.clock import Clock
from harness.device import resolve_dtype, seed_everything
from harness.flops import Ledger
from harness.objective import Batch, TimedObjective
from harness.schedule import build_schedule, set_lr


@dataclass(frozen=True)
class Budget:
    """What a fine-tuning may do; the defaults are those of MKOR's run_squad for BERT-Large.

    epochs: passes over the examples.
    batch: examples in an update.
    rate: peak of AdamW's learning rate, which rises over a share `warmup` of the updates and falls in a line to 0.
    weight_decay: of everything but biases and gains.
    grad_clip: largest norm of the gradient.
    """

    epochs: float = 2
    batch: int = 4
    rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name} must be above 0, not {value}")

    def updates(self, examples: int) -> int:
        return max(1, round(self.epochs * examples / self.batch))


class Examples:
    """Batches of a task's examples: `batch(step)` is a pure function of (seed, step), each epoch in another order.

    inputs: (N, T). targets: (N, 2).
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, batch: int, seed: int, device: str) -> None:
        self.inputs, self.targets = torch.from_numpy(inputs), torch.from_numpy(targets)
        self.size, self.seed, self.device = batch, seed, device
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> Batch:
        rows = [self._row(number) for number in range(step * self.size, (step + 1) * self.size)]
        return self.inputs[rows].to(self.device), self.targets[rows].to(self.device)

    def _row(self, number: int) -> int:
        epoch, index = divmod(number, len(self.inputs))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.RandomState([self.seed, epoch]).permutation(len(self.inputs))
        return int(self._order[index])


def fine_tune(model: Any, optimizer: torch.optim.Optimizer, examples: Examples, budget: Budget, device: str) -> float:
    """Train the model, in place; return the mean loss of the last tenth of the updates.

    model: its `flops_per_token` and its Losses are those of a language model.
    """
    updates = budget.updates(len(examples.inputs))
    schedule = build_schedule(updates, "linear", budget.warmup, 0.0)
    objective = TimedObjective(
        model, sequences=budget.batch, micro=budget.batch, clock=Clock(device), ledger=Ledger(), seed=examples.seed,
        flops_per_token=model.flops_per_token(examples.inputs.shape[1]), dtype=resolve_dtype("auto", device),
        grad_clip=budget.grad_clip,
    )  # fmt: skip
    seed_everything(examples.seed)
    losses = []
    for step in range(updates):
        set_lr(optimizer, schedule(step))
        optimizer.step(objective.bind(step, examples.batch(step)))  # type: ignore[arg-type]
        assert objective.record.loss is not None
        losses.append(objective.record.loss)
    objective.clock.close()
    return float(torch.stack(losses[-max(1, updates // 10) :]).mean())


@torch.no_grad()
def logits_of(model: nn.Module, inputs: np.ndarray, device: str, batch: int = 64) -> np.ndarray:
    """Return a model's logits for inputs (N, T), in float32 and in their order."""
    dtype, parts = resolve_dtype("auto", device), list[Tensor]()
    for first in range(0, len(inputs), batch):
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            part: Tensor = model(torch.from_numpy(inputs[first : first + batch]).to(device))
        parts.append(part.float().cpu())
    return torch.cat(parts).numpy()


def spread(by_seed: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Return the mean over seeds and questions, and its standard error; None with one question.

    by_seed: a score of each question, by each fine-tuning. The error is that of the questions' means, which holds for
    questions drawn anew, and with several seeds that of the seeds' means beside it.
    """
    scores = np.array(by_seed, dtype=float)  # (seeds, questions)
    seeds, questions = scores.shape
    if questions < 2:
        return float(scores.mean()), None
    error = scores.mean(0).var(ddof=1) / questions
    if seeds > 1:
        error += scores.mean(1).var(ddof=1) / seeds
    return float(scores.mean()), float(error**0.5)
