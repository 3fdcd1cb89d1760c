"""Measures the validation loss over fixed windows."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conventions.targets import UNCOUNTED
from harness.distributed import Ranks

PARTS = 64  # of an evaluation, at most: passes in a row, put together


class MeanLoss(NamedTuple):
    """The mean loss of the validation windows, in nats per counted target.

    parts: (targets, loss) of up to 64 parts of the windows, in order. The scatter of a difference over them tells how
    far it depends on the choice of the windows.
    """

    loss: float
    parts: list[tuple[int, float]]


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks,
    dtype: torch.dtype = torch.float32,
    compiled: Callable[..., Any] | None = None,
) -> MeanLoss:
    """Return the mean loss per counted target over the batches of all ranks, and that of each part of them.

    batches: each (inputs, targets) of (sequences, T) tokens.

    compiled: the model as it trains. Its training graph serves here too, so gradients are on and never taken, and a
    last batch that is shorter is filled up: the compiler would take as long again for a graph of its own.

    Raises ValueError where no target counts.
    """
    forward, grads, rows = (model, False, 0) if compiled is None else (compiled, True, 0)
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # summed loss, counted targets
    passes: list[Tensor] = []
    for x, y in batches:
        rows = max(rows, len(x)) if grads else len(x)
        missing = (0, 0, 0, rows - len(x))
        inputs, targets = F.pad(x, missing), F.pad(y, missing, value=UNCOUNTED)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(grads):
            losses = forward(inputs, targets)
        passes.append(torch.stack([losses.sum.detach().double(), losses.count.double()]))
        sums += passes[-1]
    share = max(1, PARTS // ranks.world)
    parts = torch.zeros(ranks.world, share, 2, dtype=torch.float64, device=device)  # a row of them for each rank
    for number, each in enumerate(passes):
        parts[ranks.rank, number * share // len(passes) if len(passes) > share else number] += each
    ranks.sum_([sums, parts])
    total, counted = sums.tolist()
    if not counted:
        raise ValueError("eval.tokens: no target of the validation windows counts, so there is no mean loss")
    by_part = [(round(count), loss / count) for loss, count in parts.flatten(0, 1).tolist() if count]
    return MeanLoss(total / counted, by_part)
