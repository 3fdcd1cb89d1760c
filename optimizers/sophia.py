"""Sophia-G and Sophia-H: momentum over an estimated curvature, clipped (Liu et al., arXiv 2305.14342, algorithm 3).

    m <- b1 m + (1 - b1) g
    h <- b2 h + (1 - b2) h^                  every k-th step
    w <- w - lr wd w
    w <- w - lr clip(m / max(rho h, eps), 1)

Preset `paper` is the ICLR form, whose gamma is `rho` here. Preset `repo` is the authors' code, which has G alone: h
starts one interval late, is estimated before the step's gradient on the whole batch from a norm-clipped gradient,
keeps no factor B (the tokens of the batch), and enters as sign(m) min(|m| / (rho B h + eps), 1). Their loop draws a
fresh batch for the estimate; here it is the batch of the step that follows, so that every optimizer sees the same data.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .base import Objective, Optimizer, Reading, ratio, state_dtype
from .checks import check_at_least, check_betas, check_common
from .curvature import GaussNewtonBartlett, Hutchinson
from .kernels import Number, average_, descend_, kernel
from .loop import MISSING, Curvature, Loop
from .registry import register
from .treatment import Treatment, treatment


class Preset(NamedTuple):
    betas: tuple[float, float]
    rho: float
    eps: float
    share: float


def bound(h: Tensor, scale: Number, eps: Number, floored: bool) -> Tensor:
    """Return the momentum at which a coordinate is clipped: max(scale h, eps), or scale h + eps."""
    scaled = h * scale
    return scaled.clamp_(min=eps) if floored else scaled.add_(eps)


@kernel
def update(
    p: Tensor, grad: Tensor, m: Tensor, h: Tensor,
    lr: Number, share1: Number, scale: Number, eps: Number, decay: Number, *, floored: bool,
) -> None:  # fmt: skip
    average_(m, grad.to(m.dtype), share1)
    ratio = m / bound(h, scale, eps, floored)
    descend_(p, ratio.clamp_(-1, 1), lr, lr * decay)


class Sophia(Optimizer):
    """Each parameter has two state tensors of its shape, momentum `m` and curvature `h`.

    Keywords left at None take the preset's value, and so does each of the betas.

    Args:
        rho: scale of the curvature, the paper's gamma: the larger, the fewer coordinates are clipped.
        every: updates between estimates of the curvature.
        share: of the batch's sequences, for the estimate.
    """

    presets: dict[str, Preset]

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 6e-4,
        betas: tuple[float | None, float | None] | None = None,
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
        beta1, beta2 = betas or (None, None)
        betas = (default.betas[0] if beta1 is None else beta1, default.betas[1] if beta2 is None else beta2)
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
        # h is read in every step; it is written, and an estimate read, in every k-th.
        moved = (3 + 2 / self.every) * p.numel()
        return treatment(p, "momentum over curvature, clipped", numbers=2 * p.numel(), moved=moved)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        objective = self.objective(closure)
        due, by_loop = self._due(objective.step), isinstance(objective, Loop)
        if due and not self.as_printed and not by_loop:
            self._update_curvature(objective)
        loss = objective()
        if due and self.as_printed and not by_loop:
            self._update_curvature(objective)
        if due and not self.param_groups[0]["num_tokens"]:
            raise ValueError(f"{type(self).__name__} has no {MISSING}")
        for group in self.param_groups:
            lr, beta1, eps, decay = group["lr"], group["betas"][0], group["eps"], group["weight_decay"]
            states = [(p, self._state(p)) for p in group["params"] if p.grad is not None]
            rows = [(p, p.grad, state["m"], state["h"]) for p, state in states]
            update(rows, lr, 1 - beta1, self._scale(group), eps, decay, floored=self._floored)
        return loss

    @property
    def curvature_due(self) -> bool:
        """Tell a loop without an Objective whether to call `update_curvature` before the next `step`."""
        return self._due(self.updates)

    def _due(self, step: int) -> bool:
        return step % self.every == 0 and (self.as_printed or step > 0)

    def _update_curvature(self, objective: Objective) -> None:
        part = objective.narrow(self.share) if self.share < 1 else objective
        estimates = dict(zip(objective.params, self._estimate(part), strict=True))
        for group in self.param_groups:
            beta2, group["num_tokens"] = group["betas"][1], part.num_tokens
            for p in group["params"]:
                h = self._state(p)["h"]
                average_(h, estimates[p].to(h.dtype), 1 - beta2)

    def _estimate(self, objective: Objective) -> list[Tensor]:
        raise TypeError("Sophia has no estimator of its own: take SophiaG or SophiaH")

    _floored = True

    def _scale(self, group: dict[str, Any]) -> float:
        return group["rho"]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["h"] = torch.zeros_like(p, dtype=state_dtype(p))
        return state

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        """Return the win rate, as the authors' code has it: the share of coordinates that the last update did not clip.

        Their README says so in one place, and the opposite in another; .1 to .5 is healthy, and a larger rho raises it.
        """
        counts = []
        for group in self.param_groups:
            for p in group["params"]:
                if state := self.state.get(p):
                    limit = bound(state["h"], self._scale(group), group["eps"], self._floored)
                    free = (state["m"].abs() < limit).sum()
                    counts.append(torch.stack([free, torch.full_like(free, p.numel())]))
        return {"win_rate": Reading(torch.stack(counts), ratio)} if counts else {}


PRESETS = (
    "`preset=paper` is the algorithm as printed (half the batch, B in h), `preset=repo` the authors' code (the whole "
    "batch, its gradient clipped to norm 1 before squaring, no B in h)."
)
PITFALLS = (
    "With fewer than some hundred estimates the average h has not warmed up, and the update is sign momentum: short "
    "runs say little of it. `rho` belongs to a batch size: the authors' code multiplies by the batch's tokens, and a "
    "harness that leaves that at 480 is off by orders of magnitude. It diverges at small batches (Semenov et al.). "
    "`optimizer/win_rate`, the share of coordinates that are not clipped, is healthy between .1 and .5; a larger `rho` "
    "raises it."
)


@register(
    "sophia_g",
    summary="clipped momentum over Gauss-Newton-Bartlett curvature",
    paper="arXiv 2305.14342",
    presets=PRESETS,
    pitfalls=PITFALLS,
    proof="tests/test_equations.py",
)
class SophiaG(Sophia):
    __doc__ = Sophia.__doc__
    presets = {  # noqa: RUF012
        "paper": Preset(betas=(0.96, 0.99), rho=0.05, eps=1e-12, share=0.5),
        "repo": Preset(betas=(0.965, 0.99), rho=0.04, eps=1e-15, share=1.0),
    }

    @torch.no_grad()
    def update_curvature(
        self, logits: Tensor | Iterable[Tensor], targets: Tensor | Iterable[Tensor] | None = None
    ) -> None:
        """Estimate the curvature in a loop without an Objective: when `curvature_due`, before `step`.

        The labels are drawn here. The gradient in `.grad` stays as it is, and so does the logits' graph. Under
        DistributedDataParallel take the logits from the module inside: its own forward would wait for a backward.

        Args:
            logits: of a share of the batch, (..., vocabulary), with their graph; or an iterator of them, one tensor
                for each micro-batch.
            targets: int64 (...), where some places count in no loss: those of -100. As many as there are logits.
        """
        self._update_curvature(Curvature(self._parameters(), logits, targets))  # type: ignore[arg-type]

    def _estimate(self, objective: Objective) -> list[Tensor]:
        estimator = GaussNewtonBartlett() if self.as_printed else GaussNewtonBartlett(scaled=False, clip=1.0)
        return estimator(objective)

    @property
    def _floored(self) -> bool:  # type: ignore[override]
        return self.as_printed

    def _scale(self, group: dict[str, Any]) -> float:
        return group["rho"] * (1 if self.as_printed else group["num_tokens"])


ABOUT_H = """Sophia-H: Sophia with Hutchinson's estimate of the curvature (Liu et al., arXiv 2305.14342, algorithm 3).

    m <- b1 m + (1 - b1) g
    h <- b2 h + (1 - b2) u * (H u),  u ~ N(0, I)          every k-th step, on a share of the batch
    w <- w - lr wd w
    w <- w - lr clip(m / max(rho h, eps), 1)

The estimate can be negative, and then the max gives eps: that coordinate's step is clipped."""


@register(
    "sophia_h",
    summary="clipped momentum over Hutchinson's curvature",
    paper="arXiv 2305.14342",
    about=ABOUT_H,
    presets="`preset=paper` is the algorithm as printed (1/15 of the batch); the authors' code has no Sophia-H, and "
    "`repo` is this one with its timing, on the whole batch.",
    pitfalls=PITFALLS
    + " A Hessian-vector product needs the math kernel of attention and an eager model: it costs three "
    "gradients of its share, and much memory. With dtype=bfloat16 it runs under autocast as all passes do: on a toy "
    "that put the products off by .007 of their size.",
    proof="tests/test_second_order.py",
)
class SophiaH(Sophia):
    """Hutchinson's estimate can be negative, so both presets keep the printed max; `repo` has the authors' timing."""

    presets = {  # noqa: RUF012
        "paper": Preset(betas=(0.96, 0.99), rho=0.01, eps=1e-12, share=1 / 15),
        "repo": Preset(betas=(0.965, 0.99), rho=0.01, eps=1e-12, share=1.0),
    }

    @torch.no_grad()
    def update_curvature(self, loss: Tensor | Iterable[Tensor]) -> None:
        """Estimate the curvature in a loop without an Objective: when `curvature_due`, before `step`.

        The gradient in `.grad` stays as it is, and so does the loss's graph.

        Args:
            loss: of a share of the batch, a scalar with its graph, from a model that is not compiled and whose
                attention has a second derivative; or an iterator, whose losses of micro-batches add up to it.

        Raises:
            ValueError: it has none.
        """
        self._update_curvature(Curvature(self._parameters(), loss))  # type: ignore[arg-type]

    def _estimate(self, objective: Objective) -> list[Tensor]:
        return Hutchinson()(objective)
