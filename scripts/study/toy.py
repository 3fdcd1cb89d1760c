"""A GPT of two layers, patterned tokens and an Objective: small enough to train a hundred steps in a blink."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from harness import checkpoint
from harness.clock import Clock
from harness.distributed import Ranks
from harness.evaluate import evaluate
from harness.flops import Ledger
from harness.objective import Batch, TimedObjective
from models import build_model
from models.base import Role
from models.gpt import GPT
from optimizers import eval_weights

Build = Callable[[nn.Module], torch.optim.Optimizer]
CONTEXT, VOCABULARY, SEQUENCES = 16, 64, 8
BEFORE, AFTER = 13, 22  # updates: a usual period of refreshes ends on either side


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **keywords) -> nn.Module:
    shape = {"layers": 2, "heads": 2, "width": 32, "context": CONTEXT, "vocabulary": VOCABULARY, **keywords}
    return build_model("gpt2", seed, **shape).to(dtype)


class Unused(GPT):
    """The tiny model with a matrix and a vector that the loss does not reach."""

    def __init__(self) -> None:
        super().__init__(layers=2, heads=2, width=32, context=CONTEXT, vocabulary=VOCABULARY)
        self.initialize(torch.Generator().manual_seed(0))
        self.spare, self.idle = nn.Linear(3, 3, bias=False), nn.Parameter(torch.ones(4))

    def roles(self) -> dict[nn.Parameter, Role]:
        return {**super().roles(), **{p: Role("hidden", "projection") for p in self.spare.parameters()}}


def tiny_batch(step: int = 0) -> Batch:
    """Return tokens with a pattern to learn: every token follows from the one before it, mostly."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCABULARY, (SEQUENCES, 1), generator=generator)
    tokens = (start + 3 * torch.arange(CONTEXT + 1)) % VOCABULARY
    noise = torch.randint(0, VOCABULARY, tokens.shape, generator=generator)
    tokens = torch.where(torch.rand(tokens.shape, generator=generator) < 0.1, noise, tokens)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def tiny_objective(
    model: nn.Module,
    micro: int = SEQUENCES,
    grad_clip: float | None = 1.0,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks | None = None,
    seed: int = 0,
) -> TimedObjective:
    return TimedObjective(
        model,
        sequences=SEQUENCES,
        micro=micro,
        flops_per_token=model.flops_per_token(CONTEXT),  # type: ignore[operator]
        clock=Clock(),
        ledger=Ledger(),
        grad_clip=grad_clip,
        dtype=dtype,
        ranks=ranks,
        seed=seed,
    )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, objective: TimedObjective, steps: int, start: int = 0
) -> list[float]:
    """Make so many updates as a run does, evaluated before and after; returns their losses.

    Raises AssertionError where an update asks for no gradient.
    """
    losses = []
    evaluate_tiny(model, optimizer)
    for step in range(start, start + steps):
        optimizer.step(objective.bind(step, tiny_batch(step)))  # type: ignore[arg-type]
        if objective.record.loss is None:
            raise AssertionError("its step asks for no gradient")
        losses.append(objective.record.loss.item())
    evaluate_tiny(model, optimizer)
    return losses


def evaluate_tiny(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Return the loss of one batch at the weights that a run would evaluate."""
    with eval_weights(optimizer):
        return evaluate(model, [tiny_batch(-1)], Ranks(), torch.float32).loss


def resumed(build: Build) -> tuple[tuple[nn.Module, list[float]], tuple[nn.Module, list[float]]]:
    """Return (model, its last losses), and those of a fresh optimizer that went on from a checkpoint, as runs do."""
    model = tiny_model()
    optimizer, objective = build(model), tiny_objective(model)
    train(model, optimizer, objective, BEFORE)
    again = tiny_model(seed=1)
    fresh = build(again)
    with TemporaryDirectory() as place:
        checkpoint.save(Path(place), BEFORE, model, optimizer, {})
        checkpoint.load(Path(place, f"step-{BEFORE:08d}"), again, fresh)
    losses = train(model, optimizer, objective, AFTER - BEFORE, start=BEFORE)
    return (model, losses), (again, train(again, fresh, tiny_objective(again), AFTER - BEFORE, start=BEFORE))
