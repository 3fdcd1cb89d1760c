"""Muon: momentum, orthogonalised (K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).

    m <- b m + (1 - b) g
    u = (1 - b) g + b m  with Nesterov, else m
    w <- w - lr wd w - lr sqrt(max(1, rows / columns)) NewtonSchulz(u)

on the weights of hidden linear layers; embeddings, head and vectors get AdamW at their own rate.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from optimizers.base import Objective, Optimizer, state_dtype
from optimizers.checks import check_at_least, check_betas, check_common
from optimizers.param_groups import by_kind
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment

# The quintic a x + b x^3 + c x^5, tuned by its author for the largest slope at 0; it maps (0, 1] to about (.7, 1.2).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def newton_schulz(matrices: Tensor, steps: int) -> Tensor:
    """Push all singular values of each matrix towards 1.

    Args:
        matrices: (..., rows, columns), in the dtype that the iteration is to run in.

    Returns:
        The same shape: U S V^T with S about 1, where matrices = U Sigma V^T.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_(min=1e-7)  # the spectral norm is at most the Frobenius norm
    for _ in range(steps):
        gram = x @ x.mT  # (..., short, short)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def newton_schulz_flops(rows: int, columns: int, steps: int) -> int:
    """2 FLOPs a multiply-add: two products with the matrix and one of the Gram matrix with itself, a step."""
    short, long = min(rows, columns), max(rows, columns)
    return steps * (4 * short**2 * long + 2 * short**3)


@register("muon", summary="orthogonalised momentum on hidden matrices", paper="Jordan et al. 2024", groups=by_kind)
class Muon(Optimizer):
    """State: the momentum `m` of a hidden matrix; `m`, `v` and `step` of everything else.

    Args:
        params: groups, each with a key `hidden`: True for the matrices to be orthogonalised.
        lr: of the hidden matrices.
        ns_dtype: of the iteration; auto is bfloat16 on CUDA and float32 elsewhere.
        adamw_lr: of the rest, with adamw_betas and adamw_eps.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: Literal["auto", "bfloat16", "float32", "float64"] = "auto",
        weight_decay: float = 0.1,
        adamw_lr: float = 6e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        check_common(lr, weight_decay)
        check_at_least("adamw_lr", adamw_lr, 0)
        check_at_least("adamw_eps", adamw_eps, 0)
        check_at_least("ns_steps", ns_steps, 1)
        check_betas([momentum], "momentum")
        check_betas(adamw_betas, "adamw_betas")
        if ns_dtype not in ("auto", *DTYPES):
            raise ValueError(f"ns_dtype must be auto, {', '.join(DTYPES)}, not {ns_dtype!r}")
        self.ns_dtype = ns_dtype
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
            "betas": adamw_betas,
            "eps": adamw_eps,
        }
        groups = [group if group["hidden"] else {"lr": adamw_lr, **group} for group in params]
        super().__init__(groups, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        group = next(group for group in self.param_groups if any(p is q for q in group["params"]))
        if not group["hidden"]:
            return treatment(p, f"AdamW at {group['lr']:g}", numbers=2 * p.numel(), counts=1)
        flops = newton_schulz_flops(*p.shape, group["ns_steps"])
        return treatment(p, "momentum, orthogonalised", numbers=p.numel(), flops=flops)

    @torch.no_grad()
    def step(self, closure: Objective | Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        loss = closure()
        charge = getattr(closure, "charge", lambda flops: None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                charge(self._step_hidden(params, group))
            else:
                for p in params:
                    self._step_adamw(p, group)
        return loss

    def _step_hidden(self, params: list[Tensor], group: dict[str, Any]) -> int:
        """Update the hidden matrices, those of one shape as one batch; returns the FLOPs of it."""
        by_shape = defaultdict(list)
        for p in params:
            by_shape[p.shape].append(p)
        flops = 0
        for (rows, columns), alike in by_shape.items():
            directions = torch.stack([self._direction(p, group) for p in alike])  # (count, rows, columns)
            orthogonal = newton_schulz(directions.to(self._dtype(directions)), group["ns_steps"])
            flops += len(alike) * newton_schulz_flops(rows, columns, group["ns_steps"])
            scale = max(1.0, rows / columns) ** 0.5
            for p, update in zip(alike, orthogonal, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                    update.to(state_dtype(p)), alpha=-group["lr"] * scale
                )
        return flops

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        g = p.grad.to(state["m"].dtype)  # type: ignore[union-attr]
        m = state["m"].lerp_(g, 1 - group["momentum"])
        return g.lerp(m, group["momentum"]) if group["nesterov"] else m

    def _dtype(self, matrices: Tensor) -> torch.dtype:
        if self.ns_dtype != "auto":
            return DTYPES[self.ns_dtype]
        # A CPU multiplies bfloat16 no faster than float32, most of them far slower.
        return torch.bfloat16 if matrices.is_cuda else matrices.dtype

    def _step_adamw(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = state["step"].item()
        g = p.grad.to(state["m"].dtype)  # type: ignore[union-attr]
        m = state["m"].lerp_(g, 1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        denominator = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(m, denominator, value=-group["lr"] / (1 - beta1**step))
