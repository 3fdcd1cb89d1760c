"""How far an optimizer's quick ways lie from float64: on the same weights and gradients, update after update.

The reference trains a small GPT on Python's own source text, weights, gradients and state in float64. Each way is shown
its weights and gradients in float32, so that what differs is what the way has made of them in its own state.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.rehearsal import Rehearsal
from models import build_model
from optimizers import build_optimizer
from scripts.bench.contenders import recipe

Way = dict[str, str]  # keywords other than the YAML's


@dataclass(frozen=True)
class Bed:
    """The model and the batch, of bytes."""

    layers: int
    heads: int
    width: int
    context: int
    sequences: int
    updates: int
    device: str

    def model(self, dtype: torch.dtype) -> nn.Module:
        shape = {key: getattr(self, key) for key in ("layers", "heads", "width", "context")}
        return build_model("gpt2", 0, vocabulary=256, **shape).to(self.device, dtype)

    def batch(self, step: int, text: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets (sequences, context)."""
        starts = np.random.default_rng(step).integers(0, len(text) - self.context - 1, self.sequences)
        rows = torch.from_numpy(np.stack([text[i : i + self.context + 1] for i in starts]).astype(np.int64))
        rows = rows.to(self.device)
        return rows[:, :-1], rows[:, 1:]


def drift(bed: Bed, name: str, exact: Way, ways: Sequence[Way]) -> list[dict[str, Any]]:
    """A row for each way.

    Args:
        exact: the keywords of the reference in float64.

    Returns:
        drift, the 2-norm of a way's update less the reference's over that of the reference's: of the last update, and
        the largest; orthogonality, the largest entry of |Q^T Q - I| over all bases and updates, None without a basis.
    """
    text = np.frombuffer(b"".join(p.read_bytes() for p in sorted(Path(os.__file__).parent.glob("*.py"))), np.uint8)
    make = partial(_made, bed, name)
    model, reference = make(torch.float64, exact)
    twins = [make(torch.float32, way) for way in ways]
    drifts: list[list[float]] = [[] for _ in ways]
    skew: list[float | None] = [None] * len(ways)
    for step in range(bed.updates):
        model.zero_grad()
        model(*bed.batch(step, text)).mean.backward()
        before = [p.detach().clone() for p in model.parameters()]
        step_along(reference, model)
        moves = [p.detach() - was for p, was in zip(model.parameters(), before, strict=True)]
        for number, (twin, optimizer) in enumerate(twins):
            for q, p, was in zip(twin.parameters(), model.parameters(), before, strict=True):
                assert p.grad is not None
                q.data.copy_(was)
                q.grad = p.grad.to(q.dtype)
            start = [q.detach().double() for q in twin.parameters()]
            step_along(optimizer, twin)
            off = [q.detach() - s - m for q, s, m in zip(twin.parameters(), start, moves, strict=True)]
            if step == 0:  # the state that begins is the reference's: a first basis is chosen by rounding in part
                _begin(twin, optimizer, model, reference)
            elif size := _norm(moves):
                drifts[number].append(_norm(off) / size)
            if (found := skewness(optimizer)) is not None:
                skew[number] = max(found, skew[number] or 0.0)
    return [
        {"optimizer": name, "way": way, "updates": bed.updates, "drift": each[-1], "largest": max(each), "skew": apart}
        for way, each, apart in zip(ways, drifts, skew, strict=True)
    ]


def step_along(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """One step along the gradient that is in `.grad` already."""
    Rehearsal(list(model.parameters()), gradient=lambda step: None).steps(optimizer, 1)


def skewness(optimizer: torch.optim.Optimizer) -> float | None:
    """The largest entry of |Q^T Q - I| of any basis in its state; None: it keeps none."""
    bases = [v.double() for s in optimizer.state.values() for key, v in s.items() if key.endswith("_basis")]
    apart = [q.mT @ q - torch.eye(len(q), dtype=q.dtype, device=q.device) for q in bases]
    return max((each.abs().max().item() for each in apart), default=None)


def _made(bed: Bed, name: str, dtype: torch.dtype, way: Way) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = bed.model(dtype)
    keywords = {key: value for key, value in recipe(name).items() if key != "name"}
    return model, build_optimizer(name, model, **{**keywords, **way})


def _begin(
    twin: nn.Module, optimizer: torch.optim.Optimizer, model: nn.Module, reference: torch.optim.Optimizer
) -> None:
    for q, p in zip(twin.parameters(), model.parameters(), strict=True):
        held = reference.state[p].items()
        optimizer.state[q] = {k: v.to(q.dtype, copy=True) if v.dtype == p.dtype else v.clone() for k, v in held}


def _norm(tensors: Sequence[Tensor]) -> float:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))).item()
