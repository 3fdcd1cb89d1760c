"""Lion: the sign of an interpolated momentum (Chen et al., arXiv 2302.06675, algorithm 2).

    c = b1 m + (1 - b1) g
    w <- w - lr (sign(c) + wd w)
    m <- b2 m + (1 - b2) g

b1 weighs the momentum in a step, and b2 is what it keeps of itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .base import Optimizer, state_dtype
from .checks import check_betas, check_common
from .kernels import Number, average_, descend_, kernel
from .registry import register
from .treatment import Treatment, treatment


@kernel
def update(p: Tensor, grad: Tensor, m: Tensor, lr: Number, share1: Number, share2: Number, decay: Number) -> None:
    g = grad.to(m.dtype)
    direction = torch.lerp(m, g, share1) if isinstance(share1, float) else m + (g - m) * share1
    descend_(p, direction.sign_(), lr, lr * decay)
    average_(m, g, share2)


@register(
    "lion",
    summary="sign of an interpolated momentum",
    paper="arXiv 2302.06675, algorithm 2",
    presets="None: the paper's program is the authors' code.",
    pitfalls="Every coordinate moves by lr whatever its gradient, so the rate is three to ten times smaller than "
    "AdamW's and the decay larger by as much; an AdamW rate diverges. The noise of a small batch goes into the "
    "sign unaveraged.",
    proof="tests/test_equations.py",
)
class Lion(Optimizer):
    """Each parameter has one state tensor of its shape, the momentum `m`."""

    takes_shards = True

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
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
        loss = self.objective(closure)()
        for group in self.param_groups:
            rows = [(p, p.grad, self._momentum(p)) for p in group["params"] if p.grad is not None]
            beta1, beta2 = group["betas"]
            update(rows, group["lr"], 1 - beta1, 1 - beta2, group["weight_decay"])
        return loss

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        return state["m"]
