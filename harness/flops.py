"""The ledger of FLOPs, and a counter for what no formula covers. A multiply-add is 2 FLOPs."""

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Ledger:
    """FLOPs since the run began: the model's own passes, those for curvature, the optimizer's matrix work.

    `optimizer` is None where it is unknown: a stranger's class that could not be counted.
    """

    model: int = 0
    curvature: int = 0
    optimizer: int | None = 0
    uncharged_per_step: float | None = 0.0  # of a class that never charges, counted beforehand; None: unknown

    def charge(self, kind: str, flops: int) -> None:
        """Add FLOPs to "model", "curvature" or "optimizer"."""
        if kind == "optimizer" and self.optimizer is None:
            return
        setattr(self, kind, getattr(self, kind) + flops)

    def at(self, step: int) -> dict[str, int | None]:
        """Cumulative FLOPs after `step` updates, by kind, and their total."""
        optimizer = None
        if self.optimizer is not None and self.uncharged_per_step is not None:
            optimizer = self.optimizer + round(self.uncharged_per_step * step)
        total = None if optimizer is None else self.model + self.curvature + optimizer
        return {"model": self.model, "curvature": self.curvature, "optimizer": optimizer, "total": total}

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "curvature": self.curvature, "optimizer": self.optimizer}

    def restore(self, state: dict[str, Any]) -> None:
        self.model, self.curvature, self.optimizer = state["model"], state["curvature"], state["optimizer"]


def _square(n_cubed: float) -> Callable[..., int]:
    """FLOPs of an operation on (..., n, n) matrices, by its multiple of n^3."""

    def flops(shape: Sequence[int], *_: Any, **__: Any) -> int:
        return round(prod(shape[:-2]) * n_cubed * shape[-1] ** 3)

    return flops


def _qr(shape: Sequence[int], *_: Any, **__: Any) -> int:
    """R and the explicit Q of (..., m, n): 4 m n k - 4/3 k^3, k = min(m, n); 8/3 n^3 for squares."""
    m, n = shape[-2:]
    k = min(m, n)
    return round(prod(shape[:-2]) * (4 * m * n * k - 4 * k**3 / 3))


def _triangular_solve(shape: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    return prod(right[:-2]) * shape[-1] ** 2 * right[-1]


def _svd(shape: Sequence[int], *_: Any, **__: Any) -> int:
    """A convention, as for eigh: 9 k^3 for the reduced problem and 4 m n k to get there and back."""
    m, n = shape[-2:]
    k = min(m, n)
    return round(prod(shape[:-2]) * (4 * m * n * k + 9 * k**3))


def _added_mm(_: Any, a: Sequence[int], b: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * prod(a) * b[-1]


def _dot(a: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(a)


aten = torch.ops.aten
# What FlopCounterMode counts as nothing although it is matrix work; multiples of n^3 as in Golub & Van Loan.
MAPPING: dict[Any, Any] = {
    aten.addmm_: _added_mm,
    aten.baddbmm_: _added_mm,
    aten.mv: _dot,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.linalg_qr: _qr,
    aten.geqrf: lambda shape, *_, **__: _qr(shape) // 2,
    aten._linalg_eigh: _square(9),
    aten._linalg_svd: _svd,
    aten.linalg_cholesky_ex: _square(1 / 3),
    aten.cholesky_inverse: _square(2 / 3),
    aten.linalg_inv_ex: _square(2),
    aten.linalg_lu_factor_ex: _square(2 / 3),
    aten.linalg_solve_triangular: _triangular_solve,
}


def counter() -> FlopCounterMode:
    """torch's FLOP counter, taught the linear algebra that it misses."""
    return FlopCounterMode(display=False, custom_mapping=MAPPING)


def count(function: Callable[[], Any]) -> int:
    """FLOPs of a call, counted while it runs."""
    with counter() as counted:
        function()
    return counted.get_total_flops()


class Rehearsal:
    """An Objective of random gradients, to run an optimizer's step outside any run. It costs no pass.

    Hooks on a model's modules would see nothing of that: where there are any, give the model, and the gradients are
    those of a pass over one token.
    """

    def __init__(self, params: list[Parameter], hooked: nn.Module | None = None) -> None:
        self.params = params
        self.hooked = hooked
        self.num_tokens = 1
        self.step = 0
        self.charged = 0
        self.share = 1.0
        self.passes = {"gradient": 0.0, "sampled_grads": 0.0, "hvp": 0.0, "joint_hvp": 0.0}  # whole batches

    def _random(self) -> list[Tensor]:
        return [torch.randn(p.shape, device=p.device, dtype=p.dtype) for p in self.params]

    def __call__(self) -> Tensor:
        self.passes["gradient"] += self.share
        if self.hooked is not None:
            return one_token_pass(self.hooked)
        for p, g in zip(self.params, self._random(), strict=True):
            p.grad = g
        return self.loss()

    def backward(self) -> None:
        """Some classes ask the loss for it."""

    def loss(self) -> Tensor:
        return torch.ones((), device=self.params[0].device)

    def sampled_grads(self) -> list[Tensor]:
        self.passes["sampled_grads"] += self.share
        return self._random()

    def hvp(self, v: Sequence[Tensor]) -> list[Tensor]:
        self.passes["hvp"] += self.share
        return [x.clone() for x in v]

    def gradient_and_hvp(self, v: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        self.passes["joint_hvp"] += self.share
        return self(), [x.clone() for x in v]

    def narrow(self, share: float) -> "Rehearsal":
        part = copy.copy(self)  # whose passes are counted with the whole's
        part.share = self.share * share
        return part

    def generator(self, key: Hashable) -> Generator:
        return Generator(self.params[0].device).manual_seed(0)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """One rank's mean is its own."""

    def charge(self, flops: int) -> None:
        self.charged += flops


@torch.enable_grad()
def one_token_pass(model: nn.Module) -> Tensor:
    """The loss of a token, and its gradients: the shortest pass that runs every layer."""
    model.zero_grad()
    token = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
    loss = model(token, token)
    loss.backward()
    return loss.detach()


def rehearse(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, steps: int) -> tuple[int, int]:
    """FLOPs of an optimizer's first `steps` steps on a copy of the model: (counted, charged by itself).

    What its hooks do during the model's passes counts, the passes themselves do not.
    """
    twin = copy.deepcopy(model)
    optimizer = build(twin)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
    objective = Rehearsal([p for p in twin.parameters() if p.requires_grad], twin if hooked else None)
    with counter() as counted:
        for objective.step in range(steps):
            optimizer.step(objective)  # type: ignore[arg-type]
    passes = round(objective.passes["gradient"]) * count(lambda: one_token_pass(copy.deepcopy(model))) if hooked else 0
    return counted.get_total_flops() - passes, objective.charged


def uncharged_per_step(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> float | None:
    """FLOPs per step of a class that never charges, over one period of its refreshes; None where that fails.

    The period is the largest whole number among the keywords that speak of one. The first period is left out: methods
    that precondition compute their first basis differently.
    """
    try:
        probe = build(copy.deepcopy(model))
        period = max([1, *(_periods(probe.param_groups[0]))])
        counted, charged = rehearse(build, model, 2 * period)
        if charged:
            return 0.0
        return (counted - rehearse(build, model, period)[0]) / period
    except Exception:  # a stranger's class may fail in any way on random gradients; then nothing is claimed of it
        return None


def _periods(group: dict[str, Any]) -> list[int]:
    words = ("freq", "every", "interval", "update_step", "period")
    return [
        value
        for key, value in group.items()
        if any(word in key for word in words) and isinstance(value, int) and 1 < value <= 100
    ]
