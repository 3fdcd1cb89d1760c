"""AdaHessian: Adam with the Hessian's diagonal for the gradient (Yao et al., arXiv 2006.00719, algorithm 1).

    D = average over blocks of |z * (H z)|, z Rademacher       every k-th step
    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) D^2
    w <- w - lr wd w - lr m^ / (v^^(p/2) + eps)

m^ and v^ are bias-corrected, v^ by the number of estimates that went into it: the steps, where k = 1. The authors
average in three ways (not at all, over a matrix's rows, over 32 entries in a row): `block` says which.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import Objective, Optimizer, state_dtype
from optimizers.checks import check_at_least, check_betas, check_common
from optimizers.curvature import Hutchinson
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment


@register("adahessian", summary="Adam on the Hessian's diagonal", paper="arXiv 2006.00719, algorithm 1")
class AdaHessian(Optimizer):
    """Two state tensors per parameter, of its shape, `m` and `v`, and two counts.

    Args:
        hessian_power: p, of the curvature in the denominator: 1 divides by it, 0 is gradient descent with momentum.
        block: entries of a matrix's row that share one curvature, their mean; 1: none do, null: the whole row. Vectors
            are never averaged, and a row that the block does not divide is averaged as a whole.
        every: updates between estimates of the curvature.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        hessian_power: float = 1.0,
        block: int | None = 32,
        every: int = 1,
        weight_decay: float = 0.0,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("eps", eps, 0)
        check_at_least("every", every, 1)
        if not 0 <= hessian_power <= 1:
            raise ValueError(f"hessian_power must be between 0 and 1, not {hessian_power}")
        if block is not None:
            check_at_least("block", block, 1)
        self.every = every
        self.block = block
        self.estimate = Hutchinson(rademacher=True)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "hessian_power": hessian_power, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        rule = "momentum over curvature" if p.ndim < 2 else "momentum over curvature, averaged in blocks of a row"
        return treatment(p, rule, numbers=2 * p.numel(), counts=2)

    @torch.no_grad()
    def step(self, closure: Objective) -> Tensor:  # type: ignore[override]
        objective = closure
        loss = objective()
        if objective.step % self.every == 0:
            self._update_curvature(objective)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update_curvature(self, objective: Objective) -> None:
        estimates = dict(zip(objective.params, self.estimate(objective), strict=True))
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for p in group["params"]:
                state = self._state(p)
                d = block_mean(estimates[p].to(state["v"].dtype).abs_(), self.block)
                state["v"].mul_(beta2).addcmul_(d, d, value=1 - beta2)
                state["estimates"] += 1

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self._state(p), group["betas"]
        state["step"] += 1
        m = state["m"].mul_(beta1).add_(p.grad.to(state["m"].dtype), alpha=1 - beta1)  # type: ignore[union-attr]
        v = state["v"] / (1 - beta2 ** state["estimates"].item())
        denominator = v.pow_(group["hessian_power"] / 2).add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(m / denominator, alpha=-group["lr"] / (1 - beta1 ** state["step"].item()))

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["step"] = torch.zeros((), dtype=torch.float32)  # counts stay on the CPU: read without waiting
            state["estimates"] = torch.zeros((), dtype=torch.float32)
        return state


def block_mean(d: Tensor, block: int | None) -> Tensor:
    """Each entry of a matrix (rows, columns) replaced by the mean of its block of `block` entries in its row."""
    if d.ndim < 2 or block == 1:
        return d
    size = d.shape[-1] if block is None or d.shape[-1] % block else block
    blocks = d.unflatten(-1, (-1, size))  # (rows, columns / size, size)
    return blocks.mean(-1, keepdim=True).expand_as(blocks).flatten(-2)
