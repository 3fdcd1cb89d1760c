"""Validation loss over fixed windows."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from harness.distributed import Ranks


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks,
    dtype: torch.dtype = torch.float32,
    forward: Callable[..., Tensor] | None = None,
) -> float:
    """Mean loss in nats per token over all ranks' batches, each (inputs, targets) of (sequences, T) tokens."""
    forward = model if forward is None else forward
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # summed loss, tokens
    for inputs, targets in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = forward(inputs, targets)
        sums += torch.stack([loss.double() * targets.numel(), loss.new_tensor(targets.numel()).double()])
    ranks.sum_([sums])
    total, tokens = sums.tolist()
    return total / tokens
