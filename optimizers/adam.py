"""Adam's step along a gradient that the caller chooses, in place: a part of other update rules."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as fused_adamw

from .kernels import Number, add_quotient_, average_, average_square_, shrink_


def adam_(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor,
    lr: Number, share1: Number, share2: Number, steps: Number, scale1: Number, scale2: Number, eps: Number,
    decay: Number,
) -> None:  # fmt: skip
    """w <- w - lr wd w - lr m^ / (sqrt(v^) + eps), and m and v follow g (Loshchilov & Hutter, arXiv 1711.05101).

    On a CPU by torch's own fused kernel, where the dtypes let it.

    Args:
        g: in the dtype of m and v.
        steps: updates that m and v have seen with this one; infinity leaves them uncorrected.
        share1, share2: 1 - b1 and 1 - b2.
        scale1, scale2: 1 / (1 - b1^steps) and 1 / (1 - b2^steps): compiled, a power would be taken for every entry.
        decay: wd.
    """
    if isinstance(share1, float) and p.device.type == "cpu" and p.dtype == m.dtype and p.is_contiguous():
        numbers: dict[str, Any] = {"beta1": 1 - share1, "beta2": 1 - share2, "lr": lr, "eps": eps}
        count = torch.tensor(steps - 1.0)
        fused_adamw(
            [p], [g.contiguous()], [m], [v], [], [count], foreach=False, fused=True, amsgrad=False, maximize=False,
            weight_decay=decay, **numbers,  # type: ignore[arg-type]
        )  # fmt: skip
        return
    average_(m, g, share1)
    average_square_(v, g, share2)
    add_quotient_(shrink_(p, lr * decay), m, (v * scale2).sqrt_().add_(eps), -lr * scale1)


def averages(betas: tuple[float, float], steps: float) -> tuple[float, float, float, float, float]:
    """Return the numbers share1 to scale2 that `adam_` takes."""
    beta1, beta2 = betas
    return 1 - beta1, 1 - beta2, steps, 1 / (1 - beta1**steps), 1 / (1 - beta2**steps)
