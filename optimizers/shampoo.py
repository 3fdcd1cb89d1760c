"""Shampoo: the gradient between inverse roots of its own second moments (Gupta et al., arXiv 1802.09568).

    L <- b2 L + (1 - b2) G G^T,   R <- b2 R + (1 - b2) G^T G,   M <- b1 M + (1 - b1) G
    every k steps: PL = (L / (1 - b2^t) + eps I)^-p,   PR = (R / (1 - b2^t) + eps I)^-p
    S = PL M^ PR,   M^ = M / (1 - b1^t)
    w <- w - lr wd w
    w <- w - lr S |A| / |S|,   A = M^ / (sqrt(V^) + 1e-8), the step of Adam whose size is grafted onto S

with p = 1/4 as first published, or 1/2 (Morwani et al., arXiv 2406.17748), where without grafting the step is that of
Adafactor in the eigenbasis of L and R, divided by sqrt(trace L) (SOAP's claim 1). Averages, bias corrections and
grafting are those of Meta's Distributed Shampoo (Shi et al., arXiv 2309.06497), the baseline in SOAP's paper; as there
the roots are first taken at step k, and until then the step is Adam's. Without grafting there is no such step to take:
the roots are taken anew at each of the first k, since a gradient outside the span of the few before it would be blown
up by eps^-p.

Preconditioned is each matrix with no side longer than `max_side`. A fused QKV is three matrices, which trains better
at first (gpt2_pico, 400 updates, three seeds: 1.958 nats per token against 2.003; 1,000 updates, the best of 8 settings
each, one seed: 1.566 against 1.569); in SOAP's paper it was one (`split_qkv=false`, see optimizers/soap.py). `block`
cuts as Meta's code does by default, at every 1024 rows and columns: each piece has an L, an R and a graft of its own,
so that what the roots cost, the cube of a side, stays small, and what rows of different pieces have in common is lost.
All else takes Adam's step: vectors, longer matrices, and tables (embedding, learned positions, a head tied to one).
Mixing the rows of a table, one token each, can ruin the run (300 updates of gpt2_pico on bytes, p = 1/2, one seed: 4.48
nats per token instead of 2.30); a factor of the width alone would follow the frequent tokens and starve the rare ones.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Optimizer, Reading, state_dtype
from .checks import check_at_least, check_betas, check_common
from .kronecker import SIDES, average_gram_, complete_, eigh, eigh_flops, gram_flops, spectrum_readings
from .param_groups import by_table
from .pieces import Matrix, matrices
from .registry import register
from .treatment import Treatment, treatment

GRAFT_EPS = 1e-8  # Adam's
State = MutableMapping[str, Tensor]


@register(
    "shampoo",
    summary="inverse roots of Kronecker factors, sized by Adam",
    paper="arXiv 1802.09568",
    presets="`power=0.25` is the paper's exponent, `power=0.5` that of later work; where the paper sums and has no "
    "momentum, averages, bias corrections and grafting are those of Meta's code, the baseline in SOAP's paper. "
    "`split_qkv=false` takes a fused qkv as one matrix, as in that paper.",
    pitfalls="Without grafting the size of a step hangs on eps and on how many gradients the factors have seen. "
    "Roots are stale between refreshes, and more so than SOAP's basis: it degrades faster as `every` grows.",
    proof="tests/test_shampoo.py",
)
class Shampoo(Optimizer):
    """The state of an (a, b) matrix is `step`, `m`, `v` (none without grafting); factors `left` (a, a), `right` (b, b);
    their inverse roots `left_root` and `right_root`, their eigenvalues `left_values` (a,) and `right_values` (b,). Of a
    parameter in pieces each has its own, named `left.0`, `left_root.0` and so on.

    Args:
        params: groups, those of tables with a key `table`: True; of parameters that hold several matrices with the
            `outputs` of each, and `transposed`: True where those are the columns.
        betas: decay of the momentum; of L, R and V.
        eps: added to the eigenvalues of L and R.
        power: p, 0.25 or 0.5.
        every: updates between refreshes of the inverse roots.
        max_side: a piece with a longer side gets Adam's step.
        split_qkv: take apart what holds several matrices, as a fused qkv does; False: it is one matrix.
        block: cut matrices into blocks of so many rows and columns at most, each preconditioned and grafted by itself;
            null: whole. Meta's max_preconditioner_dim, which is 1024 there.
        graft: take the size of each matrix's step from Adam.
        stagger: refresh different matrices on different steps, so that no step takes much longer than another.
    """

    groups, mark = staticmethod(by_table), "table"

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1.5e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-12,
        power: float = 0.25,
        every: int = 10,
        max_side: int = 10000,
        split_qkv: bool = True,
        block: int | None = None,
        graft: bool = True,
        stagger: bool = False,
        weight_decay: float = 0.01,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("every", every, 1)
        check_at_least("max_side", max_side, 1)
        if block is not None:
            check_at_least("block", block, 1)
        if eps <= 0:
            raise ValueError(f"eps must be above 0, not {eps}")
        if power not in (0.25, 0.5):
            raise ValueError(f"power must be 0.25 or 0.5, not {power}")
        self.every, self.power, self.graft, self.max_side = every, power, graft, max_side
        self.cutting: dict[str, Any] = {"split": split_qkv, "block": block, "every": every, "stagger": stagger}
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "table": False}
        super().__init__(params, defaults)

    def arrange(self) -> None:
        self.matrices = matrices(self.param_groups, self._sides, self._refresh_flops, **self.cutting)

    def _sides(self, shape: Sequence[int], table: bool) -> list[int]:
        """Return both sides of what is preconditioned, and none of anything else."""
        return [] if table or len(shape) != 2 or max(shape) > self.max_side else [0, 1]

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        own = self.matrices[p]
        rooted = [each.piece.shape for each in own if each.sides]
        if not rooted:
            return treatment(p, "Adam", numbers=2 * p.numel(), counts=len(own))
        rule = f"between inverse roots of its sides ({rooted[0][0]} and {rooted[0][1]})"
        rule += f", as {len(own)} matrices" if len(own) > 1 else ""
        moments = 2 * p.numel() - (0 if self.graft else sum(a * b for a, b in rooted))
        numbers = moments + sum(2 * n**2 + n for shape in rooted for n in shape)
        refresh = sum(self._refresh_flops(shape) for shape in rooted) / self.every
        flops = refresh + sum(self._gram_flops(shape) + self._root_flops(shape) for shape in rooted)
        return treatment(p, rule, numbers, counts=len(own), flops=flops, moved=2 * moments)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss, charge = objective(), objective.charge
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    charge(self._update(p, group))
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> int:
        """Update one parameter, piece by piece; return the FLOPs of it."""
        state, g = self.state[p], p.grad.to(state_dtype(p))  # type: ignore[union-attr]
        matrices = self.matrices[p]
        return sum(self._update_matrix(m.piece.of(p), m.piece.of(g), m.piece.state(state), m, group) for m in matrices)

    def _update_matrix(self, p: Tensor, g: Tensor, state: State, matrix: Matrix, group: dict[str, Any]) -> int:
        if "step" not in state:
            self._begin(g, state, matrix.sides)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        t, flops = state["step"].item(), 0
        momentum = state["m"].lerp_(g, 1 - beta1) / (1 - beta1**t)
        if "v" in state:
            state["v"].lerp_(g.square(), 1 - beta2)
        if matrix.sides:
            average_gram_(state["left"], g, beta2)
            average_gram_(state["right"], g.mT, beta2)
            flops += self._gram_flops(matrix.piece.shape)
        if matrix.sides and self._due(matrix, t):
            for name in SIDES:
                self._take_root(state, name, 1 - beta2**t, group["eps"])
            flops += self._refresh_flops(matrix.piece.shape)
        step = self._adams(momentum, state, 1 - beta2**t) if "v" in state else None
        if "left_root" in state:
            between = state["left_root"] @ momentum @ state["right_root"]
            step = between if step is None else between.mul_(step.norm() / (between.norm() + 1e-16))
            flops += self._root_flops(matrix.piece.shape)
        assert step is not None
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])
        return flops

    def _begin(self, g: Tensor, state: State, sides: list[int]) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"] = torch.zeros_like(g)
        if self.graft or not sides:
            state["v"] = torch.zeros_like(g)
        for axis in sides:
            state[SIDES[axis]] = g.new_zeros(g.shape[axis], g.shape[axis])

    def _due(self, matrix: Matrix, t: float) -> bool:
        if t < self.every:
            return not self.graft
        return t % self.every == matrix.due

    def _take_root(self, state: State, name: str, correction: float, eps: float) -> None:
        values, vectors = eigh(complete_(state[name]))
        values = values / correction
        # Rounding can leave the smallest below zero: all are raised by as much.
        values = values - values.min().clamp(max=0) + eps
        half = vectors * values ** (-self.power / 2)
        root = average_gram_(torch.zeros_like(half), half, beta=0.0)
        state[f"{name}_root"], state[f"{name}_values"] = complete_(root), values

    def _refresh_flops(self, shape: Sequence[int], sides: Sequence[int] = (0, 1)) -> int:
        return sum(eigh_flops(shape[axis]) + gram_flops(shape[axis], shape[axis]) for axis in sides)

    def _gram_flops(self, shape: Sequence[int]) -> int:
        a, b = shape
        return gram_flops(a, b) + gram_flops(b, a)

    def _root_flops(self, shape: Sequence[int]) -> int:
        """Count the FLOPs of a step that computes no roots, once there are any."""
        a, b = shape
        return 2 * a * b * (a + b)

    def _adams(self, momentum: Tensor, state: State, correction: float) -> Tensor:
        return momentum / (state["v"] / correction).sqrt_().add_(GRAFT_EPS)

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        """Return condition and effective rank of L + eps I and R + eps I as of their last refresh."""
        states = self.state.values()
        return spectrum_readings(value for s in states for key, value in s.items() if "_values" in key)
