"""First-order updates of one parameter along a gradient that is handed to them: what preconditioners end in.

State is kept in the wider of float32 and the parameter's dtype, beside whatever else stands in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import state_dtype

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
    """Loshchilov & Hutter, arXiv 1711.05101: w <- w - lr wd w - lr m^ / (sqrt(v^) + eps)."""
    u = _adam(p, g, state, group)
    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])


def lamb(p: Tensor, g: Tensor, state: State, group: Group) -> None:
    """You et al., arXiv 1904.00962: u = m^ / (sqrt(v^) + eps) + wd w,  w <- w - lr |w| / |u| u, for matrices.

    Vectors take u unscaled, and so does whatever has a norm of 0. Clipping is the run's own.
    """
    u = _adam(p, g, state, group).add_(p, alpha=group["weight_decay"])
    if p.ndim >= 2:
        weights, update = p.norm(dtype=u.dtype), u.norm()
        u.mul_(torch.where((weights > 0) & (update > 0), weights / update, 1.0))
    p.add_(u, alpha=-group["lr"])


BACKENDS: dict[str, Callable[[Tensor, Tensor, State, Group], None]] = {"adamw": adamw, "lamb": lamb, "sgd": sgd}


def _adam(p: Tensor, g: Tensor, state: State, group: Group) -> Tensor:
    """m^ / (sqrt(v^) + eps), a new tensor."""
    if "m" not in state:
        state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
    beta1, beta2 = group["betas"]
    state["step"] += 1
    step = state["step"].item()
    m = state["m"].mul_(beta1).add_(g, alpha=1 - beta1)
    v = state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return (m / (1 - beta1**step)).div_(denominator)
