"""Validation loss over fixed windows."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distributed import Ranks

UNCOUNTED = -100  # the target that cross_entropy leaves out


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks,
    dtype: torch.dtype = torch.float32,
    compiled: Callable[..., Tensor] | None = None,
) -> float:
    """Mean loss in nats per token over all ranks' batches, each (inputs, targets) of (sequences, T) tokens.

    compiled: the model as it trains. Its training graph serves here too, so gradients are on and never taken, and a
    last batch that is shorter is filled up: the compiler would take as long again for a graph of its own.
    """
    forward, grads, rows = (model, False, 0) if compiled is None else (compiled, True, 0)
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # summed loss, tokens
    for x, y in batches:
        rows = max(rows, len(x)) if grads else len(x)
        missing = (0, 0, 0, rows - len(x))
        inputs, targets = F.pad(x, missing), F.pad(y, missing, value=UNCOUNTED)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(grads):
            loss = forward(inputs, targets).detach()
        sums += torch.stack([loss.double() * y.numel(), loss.new_tensor(y.numel()).double()])
    ranks.sum_([sums])
    total, tokens = sums.tolist()
    return total / tokens
