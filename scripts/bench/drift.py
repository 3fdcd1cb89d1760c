"""Measures how far an optimizer's quick ways lie from float64, on the same weights and gradients, update by update.

The reference trains a small GPT on Python's own source text, weights, gradients and state in float64. A way has its
weights and gradients in float32, so that what differs is what it has made of them in its own state.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.shards import Shard, tokens
from harness.rehearsal import Rehearsal
from models import build_model
from scripts.bench.setting import optimizer_of

Pair = tuple[nn.Module, torch.optim.Optimizer]


def drift(
    optimizer: str, exact: dict[str, Any], way: dict[str, Any], sequences: int, updates: int, device: str,
    files: list[str], **shape: int,
) -> dict[str, Any]:  # fmt: skip
    """Return the drift of a way.

    Args:
        exact, way: keywords other than the YAML's, of the reference and of the way.
        files: shards of bytes.
        shape: layers, heads, width and context of the model.

    Returns:
        drift, largest: the 2-norm of an update less the reference's, as a share of that one's; of the last update and
        the largest. skew: the largest entry of |Q^T Q - I| over all bases and updates; None without a basis.
    """

    def made(dtype: torch.dtype, keywords: dict[str, Any]) -> Pair:
        model = build_model("gpt2", 0, vocabulary=256, **shape).to(device, dtype)
        return model, optimizer_of(optimizer, keywords, device).build(model)

    exactly, quickly = made(torch.float64, exact), made(torch.float32, way)
    text, context = tokens(Shard(Path(files[0]))), shape["context"]
    drifts, skews = [], []
    for step in range(updates):
        starts = np.random.default_rng(step).integers(0, len(text) - context - 1, sequences)
        rows = np.stack([text[i : i + context + 1] for i in starts]).astype(np.int64)
        moved, off = compared(exactly, quickly, torch.from_numpy(rows).to(device))
        if step == 0:  # the first state is the reference's: a first basis is chosen by rounding in part
            for q, p in zip(quickly[0].parameters(), exactly[0].parameters(), strict=True):
                held = exactly[1].state[p].items()
                quickly[1].state[q] = {
                    k: v.to(q.dtype, copy=True) if v.dtype == p.dtype else v.clone() for k, v in held
                }
        elif moved:
            drifts.append(off / moved)
        skews += [skew] if (skew := skewness(quickly[1])) is not None else []
    result = {"drift": drifts[-1], "largest": max(drifts), "skew": max(skews, default=None), "updates": updates}
    if lost := [key for key, value in result.items() if value is not None and not math.isfinite(value)]:
        raise ValueError(f"{', '.join(lost)} came out as no finite number")
    return result


def compared(exactly: Pair, quickly: Pair, tokens: Tensor) -> tuple[float, float]:
    """Make one update of both from the reference's weights; return the norms of its update and of the difference."""
    (model, reference), (twin, optimizer) = exactly, quickly
    rehearsal = Rehearsal([nn.Parameter(torch.zeros(()))], gradient=lambda step: None)  # the gradients are there
    model.zero_grad()
    nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    before = [p.detach().clone() for p in model.parameters()]
    reference.step(rehearsal)  # type: ignore[arg-type]
    for q, p, was in zip(twin.parameters(), model.parameters(), before, strict=True):
        assert p.grad is not None
        q.data.copy_(was)
        q.grad = p.grad.to(q.dtype)
    start = [q.detach().double() for q in twin.parameters()]
    optimizer.step(rehearsal)  # type: ignore[arg-type]
    moves = [p.detach() - was for p, was in zip(model.parameters(), before, strict=True)]
    off = [q.detach() - s - move for q, s, move in zip(twin.parameters(), start, moves, strict=True)]
    moved, apart = (torch.linalg.vector_norm(torch.stack(torch._foreach_norm(each))).item() for each in (moves, off))
    return moved, apart


def skewness(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the largest entry of |Q^T Q - I| of any basis in its state; None: it keeps none."""
    bases = [v.double() for s in optimizer.state.values() for key, v in s.items() if "_basis" in key]
    apart = [q.mT @ q - torch.eye(len(q), dtype=q.dtype, device=q.device) for q in bases]
    return max((each.abs().max().item() for each in apart), default=None)
