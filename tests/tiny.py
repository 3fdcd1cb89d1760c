"""The toy of scripts.study, and what tests measure of it; what most tests start from."""

import torch
from torch import Tensor, nn

from conventions.targets import UNCOUNTED
from scripts.study.toy import (  # noqa: F401
    CONTEXT,
    SEQUENCES,
    VOCABULARY,
    Build,
    Unused,
    resumed,
    tiny_batch,
    tiny_model,
    tiny_objective,
    train,
)  # fmt: skip


def masked_batch(step: int = 0) -> tuple[Tensor, Tensor]:
    """Of the first sequence every target counts, of the second none, of the others more or less of them."""
    inputs, targets = tiny_batch(step)
    generator = torch.Generator().manual_seed(step)
    share = torch.linspace(0.1, 0.9, SEQUENCES)[:, None]
    dropped = torch.rand(targets.shape, generator=generator) < share
    dropped[0], dropped[1] = False, True
    return inputs, targets.masked_fill(dropped, UNCOUNTED)


def goes_on_to_the_same_bits(build: Build) -> None:
    """A fresh optimizer given nothing but the state dict, through a file, has the losses and weights of the first."""
    (model, expected), (again, losses) = resumed(build)
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def distance(ours: list[Tensor], theirs: list[Tensor], start: list[Tensor]) -> float:
    """|d_ours - d_theirs| / |d_theirs|, where d is what training moved the weights by."""
    apart = sum(((a - b).double() ** 2).sum() for a, b in zip(ours, theirs, strict=True))
    moved = sum(((b - s).double() ** 2).sum() for b, s in zip(theirs, start, strict=True))
    return (apart / moved).sqrt().item()  # type: ignore[union-attr]
