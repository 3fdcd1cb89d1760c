"""LAMB: Adam, each layer's step scaled to its weights (You et al., arXiv 1904.00962, algorithm 2).

    g <- g / max(1, |all g| / max_grad_norm)
    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
    u = m^ / (sqrt(v^) + eps) + wd w
    w <- w - lr |w| / |u| u

for matrices; vectors (biases, LayerNorm) take the step unscaled, as in BERT's training. The ratio is 1 where either
norm is 0.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adam import adam_, averages
from .base import Optimizer, state_dtype
from .checks import check_at_least, check_betas, check_common
from .kernels import Number, Row, add_, kernel
from .registry import register
from .treatment import Treatment, treatment


@partial(kernel, apart=True)
def update_lamb(
    p: Tensor, grad: Tensor, m: Tensor, v: Tensor,
    shrink: Number, lr: Number, share1: Number, share2: Number, steps: Number, scale1: Number, scale2: Number,
    eps: Number, decay: Number,
) -> None:  # fmt: skip
    u = p.to(m.dtype) * decay
    seen = (share1, share2, steps, scale1, scale2)
    adam_(u, grad.to(m.dtype) * shrink, m, v, -1.0, *seen, eps, 0.0)  # Adam's step is added to wd w
    if p.ndim >= 2:
        weights, size = p.norm(dtype=u.dtype), u.norm()
        lr = lr * torch.where((weights > 0) & (size > 0), weights / size, 1.0)
    add_(p, u, -lr)


@register(
    "lamb",
    summary="Adam with layer-wise scaled steps",
    paper="arXiv 1904.00962, algorithm 2",
    presets="`bias_correction` and `max_grad_norm` are what implementations differ in: timm and NVIDIA clip at 1, "
    "others not; the first BERT code has no bias correction.",
    pitfalls="The step is lr times the weights' norm, however small the gradient: matrices that start near 0 (the "
    "projections into the residual stream) start slowly. max_grad_norm clips once more behind the run's grad_clip.",
    proof="tests/test_second_order.py",
)
class Lamb(Optimizer):
    """Each parameter has two state tensors of its shape, `m` and `v`, and a count.

    Args:
        bias_correction: m^ = m / (1 - b1^t) and likewise v^; False leaves both as they are.
        max_grad_norm: the whole gradient is scaled down to this 2-norm; null leaves clipping to the run's grad_clip.
    """

    takes_shards = True

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        bias_correction: bool = True,
        max_grad_norm: float | None = 1.0,
        weight_decay: float = 0.01,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("eps", eps, 0)
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be above 0, not {max_grad_norm}; null turns it off")
        self.max_grad_norm = max_grad_norm
        self.everything: list[Tensor]  # whose gradient is clipped, also those that another rank steps on
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
        }
        super().__init__(params, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        rule = "Adam, scaled to the norm of the weights" if p.ndim >= 2 else "Adam, unscaled"
        return treatment(p, rule, numbers=2 * p.numel(), counts=1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = self.objective(closure)()
        shrink = self._shrink()
        for group in self.param_groups:
            by_count: dict[float, list[Row]] = defaultdict(list)  # of steps
            for p in group["params"]:
                if p.grad is not None:
                    state = self._state(p)
                    state["step"] += 1
                    by_count[state["step"].item()].append((p, p.grad, state["m"], state["v"]))
            for steps, rows in by_count.items():
                seen = averages(group["betas"], steps if group["bias_correction"] else math.inf)
                update_lamb(rows, shrink, group["lr"], *seen, group["eps"], group["weight_decay"])
        return loss

    def arrange(self) -> None:
        self.everything = [p for group in self.param_groups for p in group["params"]]

    def _shrink(self) -> Tensor | float:
        """Return max_grad_norm's factor on every gradient; a tensor, so that nothing waits for the device."""
        grads = [p.grad for p in self.everything if p.grad is not None]
        if self.max_grad_norm is None or not grads:
            return 1.0
        return (self.max_grad_norm / torch.nn.utils.get_total_norm(grads)).clamp(max=1.0)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        return state
