"""Validation loss over fixed windows."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conventions.targets import UNCOUNTED
from harness.distributed import Ranks


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks,
    dtype: torch.dtype = torch.float32,
    compiled: Callable[..., Any] | None = None,
) -> float:
    """Return the mean loss in nats per counted target over the batches of all ranks.

    batches: each (inputs, targets) of (sequences, T) tokens.

    compiled: the model as it trains. Its training graph serves here too, so gradients are on and never taken, and a
    last batch that is shorter is filled up: the compiler would take as long again for a graph of its own.

    Raises ValueError where no target counts.
    """
    forward, grads, rows = (model, False, 0) if compiled is None else (compiled, True, 0)
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # summed loss, counted targets
    for x, y in batches:
        rows = max(rows, len(x)) if grads else len(x)
        missing = (0, 0, 0, rows - len(x))
        inputs, targets = F.pad(x, missing), F.pad(y, missing, value=UNCOUNTED)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(grads):
            losses = forward(inputs, targets)
        sums += torch.stack([losses.sum.detach().double(), losses.count.double()])
    ranks.sum_([sums])
    total, counted = sums.tolist()
    if not counted:
        raise ValueError("eval.tokens: no target of the validation windows counts, so there is no mean loss")
    return total / counted
