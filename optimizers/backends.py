"""First-order updates of one parameter along a gradient that is handed to them: what preconditioners end in.

State is kept in the wider of float32 and the parameter's dtype, beside whatever else stands in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as fused_adamw

from optimizers.base import state_dtype
from optimizers.kernels import Number, average_, average_square_, descend_, kernel
from optimizers.lamb import update as update_lamb

State = dict[str, Any]
Group = dict[str, Any]


def sgd(p: Tensor, g: Tensor, state: State, group: Group) -> None:
    """torch.optim.SGD's: u <- g + wd w,  b <- momentum b + u,  w <- w - lr b."""
    if group["weight_decay"]:
        g = g.add(p, alpha=group["weight_decay"])
    if group["momentum"]:
        if "b" not in state:
            state["b"] = torch.zeros_like(p, dtype=state_dtype(p))
        g = state["b"].mul_(group["momentum"]).add_(g)
    p.add_(g, alpha=-group["lr"])


def adamw(p: Tensor, g: Tensor, state: State, group: Group) -> None:
    """Loshchilov & Hutter, arXiv 1711.05101: w <- w - lr wd w - lr m^ / (sqrt(v^) + eps).

    By torch's own fused kernel on a CPU, where the dtypes let it; on a CUDA device that would want the count there too.
    """
    m, v, (beta1, beta2) = *_moments(p, state), group["betas"]
    lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
    if p.device.type == "cpu" and p.dtype == g.dtype == m.dtype and p.is_contiguous():
        fused_adamw(
            [p], [g.contiguous()], [m], [v], [], [state["step"]], foreach=False, fused=True, amsgrad=False, maximize=False,
            beta1=beta1, beta2=beta2, lr=lr, weight_decay=decay, eps=eps,
        )  # fmt: skip
        return
    state["step"] += 1
    step = state["step"].item()
    update([(p, g, m, v)], lr, beta1, beta2, 1 - beta1**step, 1 - beta2**step, eps, decay)


@kernel
def update(
    p: Tensor, grad: Tensor, m: Tensor, v: Tensor,
    lr: Number, beta1: Number, beta2: Number, correction1: Number, correction2: Number, eps: Number, decay: Number,
) -> None:  # fmt: skip
    g = grad.to(m.dtype)
    average_(m, g, beta1)
    average_square_(v, g, beta2)
    descend_(p, (m / correction1).div_((v / correction2).sqrt_().add_(eps)), lr, lr * decay)


def lamb(p: Tensor, g: Tensor, state: State, group: Group) -> None:
    """optimizers/lamb.py's, bias-corrected; clipping is the run's own."""
    m, v, (beta1, beta2) = *_moments(p, state), group["betas"]
    state["step"] += 1
    step = state["step"].item()
    corrections = (1 - beta1**step, 1 - beta2**step)
    update_lamb([(p, g, m, v)], 1.0, group["lr"], beta1, beta2, *corrections, group["eps"], group["weight_decay"])


BACKENDS: dict[str, Callable[[Tensor, Tensor, State, Group], None]] = {"adamw": adamw, "lamb": lamb, "sgd": sgd}


def _moments(p: Tensor, state: State) -> tuple[Tensor, Tensor]:
    if "m" not in state:
        state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
    return state["m"], state["v"]
