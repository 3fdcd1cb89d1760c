"""The ledger of FLOPs, and a counter for what no formula covers. A multiply-add is 2 FLOPs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Ledger:
    """FLOPs since the run began: the model's own passes, those for curvature, the optimizer's matrix work.

    `optimizer` is None where it is unknown: an external class that could not be counted.
    """

    key: ClassVar = "ledger"

    model: int = 0
    curvature: int = 0
    optimizer: int | None = 0
    uncharged_per_step: float | None = 0.0  # of a class that never charges, counted beforehand; None: unknown
    total: Callable[[int], int] = int  # sums what the ranks charged for the parameters that each of them owns
    unsummed: int = 0  # of `optimizer`, this rank's own since the last sum

    def charge(self, kind: str, flops: int) -> None:
        """Add FLOPs to "model", "curvature" or "optimizer"."""
        if kind == "optimizer":
            self.unsummed += flops
        if kind != "optimizer" or self.optimizer is not None:
            setattr(self, kind, getattr(self, kind) + flops)

    def at(self, step: int) -> dict[str, int | None]:
        """Return the cumulative FLOPs after `step` updates, by kind, and their total."""
        self._sum()
        optimizer = None
        if self.optimizer is not None and self.uncharged_per_step is not None:
            optimizer = self.optimizer + round(self.uncharged_per_step * step)
        total = None if optimizer is None else self.model + self.curvature + optimizer
        return {"model": self.model, "curvature": self.curvature, "optimizer": optimizer, "total": total}

    def state(self) -> dict[str, Any]:
        self._sum()
        return {"model": self.model, "curvature": self.curvature, "optimizer": self.optimizer}

    def restore(self, state: dict[str, Any]) -> None:
        self.model, self.curvature, self.optimizer = state["model"], state["curvature"], state["optimizer"]
        self.unsummed = 0

    def _sum(self) -> None:
        """Add to `optimizer` what the ranks have charged; all of them must come here."""
        charged, self.unsummed = self.unsummed, 0
        by_others = self.total(charged) - charged
        if self.optimizer is not None:
            self.optimizer += by_others


def _square(n_cubed: float) -> Callable[..., int]:
    """Return the FLOPs of an operation on (..., n, n) matrices, by its multiple of n^3."""

    def flops(shape: Sequence[int], *_: Any, **__: Any) -> int:
        return round(prod(shape[:-2]) * n_cubed * shape[-1] ** 3)

    return flops


def _qr(shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the FLOPs of R and the explicit Q of (..., m, n): 4 m n k - 4/3 k^3, k = min(m, n); of squares 8/3 n^3."""
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


@contextmanager
def counter() -> Iterator[FlopCounterMode]:
    """Yield torch's FLOP counter, with formulas for the linear algebra that it misses.

    What is compiled runs uncompiled meanwhile: the counter would not see into it. And the compiler, called under a
    counter, gives a function up for the rest of the process.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=MAPPING) as counted:
        yield counted


def count(function: Callable[[], Any]) -> int:
    """Return the FLOPs of a call, counted while it runs."""
    with counter() as counted:
        function()
    return counted.get_total_flops()
