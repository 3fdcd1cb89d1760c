"""The output head and its loss. On a CPU, logits that outgrow the caches are made and used up block by block."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 2**24  # logits: 64 MB in fp32. Below, blocks gain nothing.
BLOCK = 2**20  # logits per block; at least 128 rows, so that its matrix products stay efficient


def head_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the logits x weight^T, in nats per token; a scalar in fp32 at least.

    x: (N, width), the normed residual stream. weight: (V, width), the tied embedding. targets: int64 (N,).
    """
    eager_cpu = x.is_cpu and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    if eager_cpu and x.requires_grad and x.dtype == torch.float32 and len(x) * len(weight) > LARGE:
        return BlockwiseLoss.apply(x, weight, targets)
    logits = F.linear(x, weight)  # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # from bf16 under autocast
    return F.cross_entropy(logits, targets)


class BlockwiseLoss(torch.autograd.Function):
    """`head_loss` with its gradients taken on the way, while a block's logits are still at hand.

    The stock path writes N x V numbers three times, reads them back from memory, and has the system map fresh pages for
    them in every pass. The matrix products are the same in both. For a second derivative, backward falls back on the
    stock path, at the price of the head's passes once more: where one is wanted, take the loss from the logits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = max(128, BLOCK // len(weight))
        loss, x_grad, weight_grad = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(weight)
        for first in range(0, len(x), rows):
            block, target = x[first : first + rows], targets[first : first + rows, None]
            error = F.log_softmax(block @ weight.T, dim=1)  # (rows, V)
            loss -= error.gather(1, target).sum()
            error.exp_().scatter_add_(1, target, error.new_full((len(block), 1), -1.0))  # softmax - one-hot
            torch.mm(error, weight, out=x_grad[first : first + rows])
            weight_grad.addmm_(error.T, block)
        ctx.save_for_backward(x, weight, targets, x_grad.div_(len(x)), weight_grad.div_(len(x)))
        return loss / len(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, targets, x_grad, weight_grad = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: this must be differentiable itself
            x, weight = x.view_as(x), weight.view_as(weight)  # stop at this head: x depends on the weight too
            loss = F.cross_entropy(F.linear(x, weight), targets)
            x_grad, weight_grad = torch.autograd.grad(loss, (x, weight), create_graph=True)
        return x_grad * grads[0], weight_grad * grads[0], None
