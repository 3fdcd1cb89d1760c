"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv 2409.11321, algorithm 3).

    G' = QL^T G QR
    M <- b1 M + (1 - b1) G'                        both in the basis
    V <- b2 V + (1 - b2) G'^2
    w <- w - lr sqrt(1 - b2^t) / (1 - b1^t)  QL (M / (sqrt(V) + eps)) QR^T
    w <- w - lr wd w
    L <- b2 L + (1 - b2) G G^T,   R <- b2 R + (1 - b2) G^T G
    every k steps: QL, QR follow L, R; M is rotated and V permuted with them

QL and QR are the eigenvectors of L and R: by eigh the first time, by one step of the power iteration and QR from then
on. As in the authors' code the first gradient only starts L and R, so that no gradient is ever seen in a basis made
from itself; t counts from the second. They rotate the momentum back and forth each step, which changes nothing while
the basis stands; kept in the basis it takes three products with G's shape per step and side instead of five.

Which sides are rotated:
- of a matrix, each side no longer than `max_side`; a fused QKV is one matrix, with a basis of three times the width;
- of a table (embedding, learned positions, a head tied to one), the width alone, Q = I on the rows. The authors' code
  gets there by shape, its limit of 10000 being there to leave out the vocabulary. A vocabulary of bytes is shorter, and
  mixing its tokens costs dear (300 updates of gpt2_pico, one seed: 2.46 nats per token instead of 2.16);
- of vectors none: theirs is Adam, a step late.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import Objective, Optimizer, state_dtype
from optimizers.checks import check_at_least, check_betas, check_common
from optimizers.eigenbasis import first_basis, first_basis_flops, next_basis, next_basis_flops
from optimizers.kronecker import average_gram_, complete_, gram_flops, spectrum_metrics, spread
from optimizers.param_groups import by_table
from optimizers.registry import register
from optimizers.treatment import Treatment, treatment

SIDES = ("left", "right")
State = dict[str, Tensor]


@register(
    "soap", summary="Adam in the eigenbasis of Shampoo's preconditioner", paper="arXiv 2409.11321", groups=by_table
)
class SOAP(Optimizer):
    """State of an (a, b) matrix: `step`; `m`, and `v` or its `rows` (a,) and `columns` (b,), in the basis; and for each
    side of length n its factor, e.g. `left` (n, n), `left_basis` (n, n), `left_values` (n,).

    Args:
        params: groups, those of tables with a key `table`: True.
        betas: decay of the momentum; of V, L and R.
        every: updates between refreshes of the basis.
        max_side: a longer side is not rotated.
        one_sided: rotate the shorter side only (of a square: the right); the paper's section 7.
        factorized: V = rows columns^T / sum(rows), as Adafactor's; the paper's section 7.
        stagger: refresh different matrices on different steps, so that no step takes much longer than another.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        max_side: int = 10000,
        one_sided: bool = False,
        factorized: bool = False,
        stagger: bool = False,
        weight_decay: float = 0.01,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("eps", eps, 0)
        check_at_least("every", every, 1)
        check_at_least("max_side", max_side, 1)
        self.every, self.max_side, self.one_sided, self.factorized = every, max_side, one_sided, factorized
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "table": False}
        super().__init__(params, defaults)
        self.axes = {p: self._axes(p, group["table"]) for group in self.param_groups for p in group["params"]}
        costs = [sum(next_basis_flops(p.shape[axis]) for axis in axes) for p, axes in self.axes.items()]
        self.due_at = dict(zip(self.axes, spread(costs, every), strict=True)) if stagger else {}

    def _axes(self, p: Tensor, table: bool) -> list[int]:
        """The sides of a parameter that are rotated: 0 its rows, 1 its columns."""
        if p.ndim != 2:
            return []
        axes = [1] if table else [0, 1]
        if self.one_sided and not table:
            axes = [0] if p.shape[0] < p.shape[1] else [1]
        return [axis for axis in axes if p.shape[axis] <= self.max_side]

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        axes = self.axes[p]
        sides = [f"{('rows', 'columns')[axis]} ({p.shape[axis]})" for axis in axes]
        rule = f"Adam in the eigenbasis of its {' and '.join(sides)}" if axes else "Adam"
        factored = self.factorized and p.ndim == 2
        numbers = p.numel() + (sum(p.shape) if factored else p.numel())
        numbers += sum(2 * p.shape[axis] ** 2 + p.shape[axis] for axis in axes)
        refresh = 2 * self._rotation_flops(p) + sum(next_basis_flops(p.shape[axis]) for axis in axes)
        grams = sum(gram_flops(p.shape[axis], p.shape[1 - axis]) for axis in axes)
        flops = 2 * self._rotation_flops(p) + grams + refresh / self.every
        return treatment(p, rule, numbers, counts=1, flops=flops)

    @torch.no_grad()
    def step(self, closure: Objective | Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        loss = closure()
        charge = getattr(closure, "charge", lambda flops: None)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    charge(self._update(p, group))
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> int:
        """One parameter's step; returns the FLOPs of it."""
        state, g = self.state[p], p.grad.to(state_dtype(p))  # type: ignore[union-attr]
        beta1, beta2 = group["betas"]
        if not state:
            self._begin(p, g, state)
            return self._average_factors(p, g, state, beta2) + self._find_basis(p, state)
        state["step"] += 1
        t = state["step"].item()
        rotated = rotate(g, state)
        m = state["m"].lerp_(rotated, 1 - beta1)
        update = m / self._root_of_v(rotated, state, beta2).add_(group["eps"])
        size = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        p.add_(rotate_back(update, state), alpha=-size).mul_(1 - group["lr"] * group["weight_decay"])
        flops = 2 * self._rotation_flops(p) + self._average_factors(p, g, state, beta2)
        if t % self.every == self.due_at.get(p, 0):
            flops += self._follow_basis(p, state)
        return flops

    def _begin(self, p: Tensor, g: Tensor, state: State) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"] = torch.zeros_like(g)
        if self.factorized and p.ndim == 2:
            state["rows"], state["columns"] = torch.zeros_like(g[:, 0]), torch.zeros_like(g[0])
        else:
            state["v"] = torch.zeros_like(g)
        for axis in self.axes[p]:
            state[SIDES[axis]] = g.new_zeros(g.shape[axis], g.shape[axis])

    def _root_of_v(self, rotated: Tensor, state: State, beta2: float) -> Tensor:
        squared = rotated.square()
        if "v" in state:
            return state["v"].lerp_(squared, 1 - beta2).sqrt()
        rows = state["rows"].lerp_(squared.sum(1), 1 - beta2)
        columns = state["columns"].lerp_(squared.sum(0), 1 - beta2)
        share = rows / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny)
        return torch.outer(share.sqrt(), columns.sqrt())

    def _average_factors(self, p: Tensor, g: Tensor, state: State, beta2: float) -> int:
        for axis in self.axes[p]:
            average_gram_(state[SIDES[axis]], g if axis == 0 else g.mT, beta2)
        return sum(gram_flops(p.shape[axis], p.shape[1 - axis]) for axis in self.axes[p])

    def _find_basis(self, p: Tensor, state: State) -> int:
        for side in (SIDES[axis] for axis in self.axes[p]):
            state[f"{side}_basis"], state[f"{side}_values"] = first_basis(complete_(state[side]))
        return sum(first_basis_flops(p.shape[axis]) for axis in self.axes[p])

    def _follow_basis(self, p: Tensor, state: State) -> int:
        momentum = rotate_back(state["m"], state)
        for axis in self.axes[p]:
            side = SIDES[axis]
            basis, order, values = next_basis(complete_(state[side]), state[f"{side}_basis"])
            state[f"{side}_basis"], state[f"{side}_values"] = basis, values
            if "v" in state:
                state["v"] = state["v"].index_select(axis, order)
            else:
                sums = ("rows", "columns")[axis]
                state[sums] = state[sums][order]
        state["m"] = rotate(momentum, state)
        return 2 * self._rotation_flops(p) + sum(next_basis_flops(p.shape[axis]) for axis in self.axes[p])

    def _rotation_flops(self, p: Tensor) -> int:
        return sum(2 * p.numel() * p.shape[axis] for axis in self.axes[p])

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor | float]:
        """Condition and effective rank of the factors L and R as of their last refresh."""
        states = self.state.values()
        return spectrum_metrics(value for s in states for key, value in s.items() if key.endswith("_values"))


def rotate(x: Tensor, state: State) -> Tensor:
    """QL^T x QR, into the basis."""
    if "left_basis" in state:
        x = state["left_basis"].mT @ x
    return x @ state["right_basis"] if "right_basis" in state else x


def rotate_back(x: Tensor, state: State) -> Tensor:
    """QL x QR^T, out of the basis."""
    if "left_basis" in state:
        x = state["left_basis"] @ x
    return x @ state["right_basis"].mT if "right_basis" in state else x
