"""A model, a batch and an Objective small enough to run a hundred steps in a blink; what most tests start from."""

import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.clock import Clock
from harness.distributed import Ranks
from harness.flops import Ledger
from harness.objective import Batch, Objective
from models import build_model

CONTEXT, VOCABULARY, SEQUENCES = 16, 64, 8


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **keywords) -> nn.Module:
    shape = {"layers": 2, "heads": 2, "width": 32, "context": CONTEXT, "vocabulary": VOCABULARY, **keywords}
    return build_model("gpt2", seed, **shape).to(dtype)


def tiny_batch(step: int = 0) -> Batch:
    """Patterned, so that there is something to learn: every token follows from the one before it, mostly."""
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
) -> Objective:
    return Objective(
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
    model: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective, steps: int, start: int = 0
) -> list[float]:
    """Losses of so many updates."""
    losses = []
    for step in range(start, start + steps):
        optimizer.step(objective.bind(step, tiny_batch(step)))  # type: ignore[arg-type]
        assert objective.record.loss is not None
        losses.append(objective.record.loss.item())
    return losses


def goes_on_to_the_same_bits(build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """A fresh optimizer given nothing but the state dict, through a file, has the losses and weights of the first."""
    model = tiny_model()
    optimizer, objective = build(model), tiny_objective(model)
    train(model, optimizer, objective, 13)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = train(model, optimizer, objective, 9, start=13)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = tiny_model(seed=1)
    again.load_state_dict(saved["model"])
    fresh = build(again)
    fresh.load_state_dict(saved["optimizer"])
    assert train(again, fresh, tiny_objective(again), 9, start=13) == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def distance(ours: list[Tensor], theirs: list[Tensor], start: list[Tensor]) -> float:
    """|d_ours - d_theirs| / |d_theirs|, where d is what training moved the weights by."""
    apart = sum(((a - b).double() ** 2).sum() for a, b in zip(ours, theirs, strict=True))
    moved = sum(((b - s).double() ** 2).sum() for b, s in zip(theirs, start, strict=True))
    return (apart / moved).sqrt().item()  # type: ignore[union-attr]
