"""LAMB: Adam, each layer's step scaled to its weights (You et al., arXiv 1904.00962, algorithm 2).

    g <- g / max(1, |all g| / max_grad_norm)
    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
    u = m^ / (sqrt(v^) + eps) + wd w
    w <- w - lr |w| / |u| u

for matrices; vectors (biases, LayerNorm) take the step unscaled, as in BERT's training. The ratio is 1 where either
norm is 0.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import Optimizer, state_dtype
from optimizers.checks import check_at_least, check_betas, check_common
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment


@register("lamb", summary="Adam with layer-wise scaled steps", paper="arXiv 1904.00962, algorithm 2")
class Lamb(Optimizer):
    """Two state tensors per parameter, of its shape, `m` and `v`, and a count.

    Args:
        bias_correction: m^ = m / (1 - b1^t) and likewise v^; False leaves both as they are.
        max_grad_norm: the whole gradient is scaled down to this 2-norm; null leaves clipping to the run's grad_clip.
    """

    def __init__(
        self,
        params: Iterable[Any],
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
        loss = closure() if closure else None
        shrink = self._shrink()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group, shrink)
        return loss

    def _shrink(self) -> Tensor | None:
        """What to multiply every gradient with; a tensor, so that nothing waits for the device."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm is None or not grads:
            return None
        return (self.max_grad_norm / torch.nn.utils.get_total_norm(grads)).clamp(max=1.0)

    def _update(self, p: Tensor, group: dict[str, Any], shrink: Tensor | None) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["step"] += 1
        step = state["step"].item()
        g = p.grad.to(state["m"].dtype)  # type: ignore[union-attr]
        if shrink is not None:
            g = g * shrink
        m = state["m"].mul_(beta1).add_(g, alpha=1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        correction1, correction2 = (1 - beta1**step, 1 - beta2**step) if group["bias_correction"] else (1.0, 1.0)
        u = (m / correction1).div_((v / correction2).sqrt_().add_(group["eps"]))
        if group["weight_decay"]:
            u.add_(p, alpha=group["weight_decay"])
        if p.ndim >= 2:
            weights, update = p.norm(dtype=u.dtype), u.norm()
            u.mul_(torch.where((weights > 0) & (update > 0), weights / update, torch.ones_like(update)))
        p.add_(u, alpha=-group["lr"])
