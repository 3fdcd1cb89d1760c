"""Sophia-G and Sophia-H: momentum over an estimated curvature, clipped (Liu et al., arXiv 2305.14342, algorithm 3).

    m <- b1 m + (1 - b1) g
    h <- b2 h + (1 - b2) h^                  every k-th step
    w <- w - lr wd w
    w <- w - lr clip(m / max(rho h, eps), 1)

Preset `paper` is the ICLR form, whose gamma is `rho` here. Preset `repo` is the authors' code, which has G alone: h
starts one interval late, is estimated before the step's gradient on the whole batch from a norm-clipped gradient,
keeps no factor B (the tokens of the batch), and enters as sign(m) min(|m| / (rho B h + eps), 1).
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from optimizers.base import Objective, Optimizer, state_dtype
from optimizers.checks import check_at_least, check_betas, check_common
from optimizers.curvature import GaussNewtonBartlett, Hutchinson
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment


class Preset(NamedTuple):
    betas: tuple[float, float]
    rho: float
    eps: float
    share: float


class Sophia(Optimizer):
    """Two state tensors per parameter, of its shape: momentum `m` and curvature `h`.

    Keywords left at None take the preset's value.

    Args:
        rho: scale of the curvature, the paper's gamma: the larger, the fewer coordinates are clipped.
        every: updates between estimates of the curvature.
        share: of the batch's sequences, for the estimate.
    """

    presets: dict[str, Preset]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 6e-4,
        betas: tuple[float, float] | None = None,
        rho: float | None = None,
        eps: float | None = None,
        every: int = 10,
        share: float | None = None,
        weight_decay: float = 0.2,
        preset: Literal["paper", "repo"] = "paper",
    ) -> None:
        if preset not in self.presets:
            raise ValueError(f"preset must be paper or repo, not {preset!r}")
        default = self.presets[preset]
        betas = default.betas if betas is None else betas
        rho = default.rho if rho is None else rho
        eps = default.eps if eps is None else eps
        self.share = default.share if share is None else share
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("rho", rho, 0)
        check_at_least("every", every, 1)
        if eps <= 0:
            raise ValueError(f"eps must be above 0, not {eps}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}")
        self.every = every
        self.as_printed = preset == "paper"
        defaults = {"lr": lr, "betas": betas, "rho": rho, "eps": eps, "weight_decay": weight_decay, "num_tokens": 0}
        super().__init__(params, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        return treatment(p, "momentum over curvature, clipped", numbers=2 * p.numel())

    @torch.no_grad()
    def step(self, closure: Objective) -> Tensor:  # type: ignore[override]
        objective, due = closure, closure.step % self.every == 0
        if due and objective.step > 0 and not self.as_printed:
            self._update_curvature(objective)
        loss = objective()
        if due and self.as_printed:
            self._update_curvature(objective)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, beta1 = self._state(p), group["betas"][0]
                m = state["m"].mul_(beta1).add_(p.grad.to(state["m"].dtype), alpha=1 - beta1)
                ratio = (m / self._bound(state["h"], group)).clamp_(-1, 1)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(ratio, alpha=-group["lr"])
        return loss

    def _update_curvature(self, objective: Objective) -> None:
        part = objective.narrow(self.share) if self.share < 1 else objective
        estimates = dict(zip(objective.params, self._estimate(part), strict=True))
        for group in self.param_groups:
            beta2, group["num_tokens"] = group["betas"][1], part.num_tokens
            for p in group["params"]:
                h = self._state(p)["h"]
                h.mul_(beta2).add_(estimates[p].to(h.dtype), alpha=1 - beta2)

    def _estimate(self, objective: Objective) -> list[Tensor]:
        raise TypeError("Sophia has no estimator of its own: take SophiaG or SophiaH")

    def _bound(self, h: Tensor, group: dict[str, Any]) -> Tensor:
        """The momentum at which a coordinate is clipped: the denominator of the update."""
        return h.mul(group["rho"]).clamp_(min=group["eps"])

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["h"] = torch.zeros_like(p, dtype=state_dtype(p))
        return state

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor | float]:
        """The win rate: the share of coordinates that the last update clipped; .1 to .5 is healthy."""
        clipped, count = [], 0
        for group in self.param_groups:
            for p in group["params"]:
                if state := self.state.get(p):
                    clipped.append((state["m"].abs() >= self._bound(state["h"], group)).sum())
                    count += p.numel()
        return {"win_rate": torch.stack(clipped).sum() / count} if count else {}


@register("sophia_g", summary="clipped momentum over Gauss-Newton-Bartlett curvature", paper="arXiv 2305.14342")
class SophiaG(Sophia):
    __doc__ = Sophia.__doc__
    presets = {  # noqa: RUF012
        "paper": Preset(betas=(0.96, 0.99), rho=0.05, eps=1e-12, share=0.5),
        "repo": Preset(betas=(0.965, 0.99), rho=0.04, eps=1e-15, share=1.0),
    }

    def _estimate(self, objective: Objective) -> list[Tensor]:
        estimator = GaussNewtonBartlett() if self.as_printed else GaussNewtonBartlett(scaled=False, clip=1.0)
        return estimator(objective)

    def _bound(self, h: Tensor, group: dict[str, Any]) -> Tensor:
        if self.as_printed:
            return super()._bound(h, group)
        return h.mul(group["rho"] * group["num_tokens"]).add_(group["eps"])


@register("sophia_h", summary="clipped momentum over Hutchinson's curvature", paper="arXiv 2305.14342")
class SophiaH(Sophia):
    """Hutchinson's estimate can be negative, so both presets keep the printed max; `repo` has the authors' timing."""

    presets = {  # noqa: RUF012
        "paper": Preset(betas=(0.96, 0.99), rho=0.01, eps=1e-12, share=1 / 15),
        "repo": Preset(betas=(0.965, 0.99), rho=0.01, eps=1e-12, share=1.0),
    }

    def _estimate(self, objective: Objective) -> list[Tensor]:
        return Hutchinson()(objective)
