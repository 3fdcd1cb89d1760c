"""The output head makes the loss. Logits that outgrow the caches can be made and used up block by block."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conventions.targets import UNCOUNTED

LARGE = 2**24  # logits: 64 MB in fp32. Below, blocks gain nothing.
BLOCK = 2**20  # logits per block on a CPU; at least 128 rows, so that its matrix products stay efficient

_rows = 0


def block_rows(rows: int) -> None:
    """Set rows per block from now on, in this process; 0, the default: in one piece, but for large logits on a CPU.

    Compiled, the pass in one piece fuses the cast to fp32 into the softmax and keeps logits in bf16 alone, twice; in
    blocks there is one block of them, at the price of adding up a gradient of the weight for each. Which of the two is
    quicker, and whether the memory buys anything, `scripts.bench train --variants head_rows=...` measures.
    """
    global _rows
    if rows < 0:
        raise ValueError(f"head_rows must be at least 0, not {rows}")
    _rows = rows


def head_loss(
    x: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the cross-entropy of the logits x weight^T + bias over counted targets, their number, and their z-loss.

    x: (N, width), the normed residual stream. weight, bias: (V, width) and (V,), the head. targets: int64 (N,), -100
    where one is not counted. The sum is a scalar in nats, in fp32 at least. z_loss: the third is this multiple of the
    sum of squares of the log of the softmax's sum (Chowdhery et al. 2022, PaLM, section 5); None at 0.
    """
    count = (targets != UNCOUNTED).sum()
    if not z_loss and bias is None and (rows := _rows_of_a_block(x, weight)):
        low = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return BlockwiseLoss.apply(x, weight, targets, rows, low), count, None
    logits = F.linear(x, weight, bias)  # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # from bf16 under autocast
    loss = F.cross_entropy(logits, targets, ignore_index=UNCOUNTED, reduction="sum")
    if not z_loss:
        return loss, count, None
    return loss, count, z_loss * (logits.logsumexp(1).square() * (targets != UNCOUNTED)).sum()


def _rows_of_a_block(x: Tensor, weight: Tensor) -> int:
    """Return the rows of a block; 0: the logits stay in one piece."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return 0
    if _rows or not x.is_cpu:
        return _rows
    eager = not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    large = eager and x.dtype == torch.float32 and len(x) * len(weight) > LARGE
    return max(128, BLOCK // len(weight)) if large else 0


class BlockwiseLoss(torch.autograd.Function):
    """`head_loss` with its gradients taken on the way, while a block's logits are still at hand.

    The stock path writes N x V numbers three times, reads them back from memory, and has the system map fresh pages for
    them in every pass. The matrix products are the same in both. For a second derivative, backward falls back on the
    stock path, at the price of the head's passes once more: where one is wanted, take the loss from the logits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int, low: torch.dtype) -> Tensor:
        wide = torch.promote_types(low, torch.float32)
        x_low, weight_low = x.to(low), weight.to(low)  # the matrix products are in `low`, what is summed in `wide`
        loss, x_grad = x.new_zeros((), dtype=wide), torch.empty_like(x_low)
        weight_grad = torch.zeros_like(weight)
        for first in range(0, len(x), rows):
            block, target = x_low[first : first + rows], targets[first : first + rows, None]
            counted = target != UNCOUNTED  # (rows, 1): what is narrow is masked, never a tensor as wide as the logits
            target = target * counted
            error = F.log_softmax(block @ weight_low.T, dim=1, dtype=wide)  # (rows, V)
            loss -= (error.gather(1, target) * counted).sum()
            error.exp_().scatter_add_(1, target, error.new_full((len(block), 1), -1.0))  # softmax - one-hot
            error = error.to(low)
            torch.mm(error, weight_low, out=x_grad[first : first + rows]).mul_(counted)
            block = block * counted
            if low == weight.dtype:
                weight_grad.addmm_(error.T, block)
            else:
                weight_grad += error.T @ block
        ctx.save_for_backward(x, weight, targets, x_grad, weight_grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, targets, x_grad, weight_grad = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: this must be differentiable itself
            x, weight = x.view_as(x), weight.view_as(weight)  # stop at this head: x depends on the weight too
            loss = F.cross_entropy(F.linear(x, weight), targets, ignore_index=UNCOUNTED, reduction="sum")
            x_grad, weight_grad = torch.autograd.grad(loss, (x, weight), create_graph=True)
        return x_grad.to(x.dtype) * grads[0], weight_grad * grads[0], None, None, None
