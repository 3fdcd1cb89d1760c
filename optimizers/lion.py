"""Lion: the sign of an interpolated momentum (Chen et al., arXiv 2302.06675, algorithm 2).

c = b1 m + (1 - b1) g
w <- w - lr (sign(c) + wd w)
m <- b2 m + (1 - b2) g
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import Optimizer, state_dtype
from optimizers.checks import check_betas, check_common
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment


@register("lion", summary="sign of an interpolated momentum", paper="arXiv 2302.06675, algorithm 2")
class Lion(Optimizer):
    """One state tensor per parameter, the momentum `m`, of the parameter's shape."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.95, 0.98),
        weight_decay: float = 0.0,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        return treatment(p, "sign of the momentum", numbers=p.numel())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure else None
        for group in self.param_groups:
            lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
                m = state["m"]
                g = p.grad.to(m.dtype)
                direction = m.mul(beta1).add_(g, alpha=1 - beta1).sign_()
                p.mul_(1 - lr * decay).add_(direction, alpha=-lr)
                m.mul_(beta2).add_(g, alpha=1 - beta2)
        return loss
