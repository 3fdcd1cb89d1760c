"""Backends are first-order updates along a preconditioned gradient, which K-FAC and MKOR end in.

State is kept in the wider of float32 and the parameter's dtype, beside whatever else stands in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimizers.adam import adam_, averages
from optimizers.base import state_dtype
from optimizers.kernels import Number, kernel
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
    """Loshchilov & Hutter, arXiv 1711.05101: w <- w - lr wd w - lr m^ / (sqrt(v^) + eps)."""
    update_adamw([(p, g, *_moments(p, state))], *_numbers(state, group))


@kernel
def update_adamw(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, *numbers: Number) -> None:
    adam_(p, grad.to(m.dtype), m, v, *numbers)


def lamb(p: Tensor, g: Tensor, state: State, group: Group) -> None:
    """optimizers/lamb.py's, bias-corrected; clipping is the run's own."""
    update_lamb([(p, g, *_moments(p, state))], 1.0, *_numbers(state, group))


BACKENDS: dict[str, Callable[[Tensor, Tensor, State, Group], None]] = {"adamw": adamw, "lamb": lamb, "sgd": sgd}


def _moments(p: Tensor, state: State) -> tuple[Tensor, Tensor]:
    if "m" not in state:
        state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
    return state["m"], state["v"]


def _numbers(state: State, group: Group) -> tuple[float, ...]:
    """lr, share1 to scale2 for the update to be made, eps, wd."""
    state["step"] += 1
    return (group["lr"], *averages(group["betas"], state["step"].item()), group["eps"], group["weight_decay"])
