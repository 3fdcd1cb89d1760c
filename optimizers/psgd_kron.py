"""PSGD-Kron: momentum whitened by two triangular factors, which are fitted as one goes (X.-L. Li, arXiv 1512.04202).

    m <- b m + (1 - b) g,   m^ = m / (1 - b^t)
    u = QL^T QL m^ QR^T QR
    w <- w - lr (u min(1, 1.1 / rms(u)) + wd w)

and at each refresh before u, with V of N(0, 1) and G = m^ + damping mean(|m^|) V:

    A = QL G QR^T,   B = QL^-T V QR^-1
    QL <- QL - c triu(A A^T - B B^T) QL / |A A^T + B B^T|
    QR <- QR - c triu(A^T A - B^T B) QR / |A^T A + B^T B|

with c = preconditioner_lr, and a lower bound of the spectral norm. That is descent, in the group of triangular matrices
(arXiv 2402.11858), of the whitening criterion, E[g^T P g + v^T P^-1 v] over P = Q^T Q for each kind of g: at its
minimum the entries of u have the covariance 1, so that rates are of Adam's kind, and somewhat below.

The updates are refreshes for `flat_start` steps; then the interval grows as e^(anneal n), up to `every`. It is counted
as in evanatyourservice/kron_torch (kron.py, `precond_update_prob_schedule`), where .03 is the probability that `every`
of 34 stands for, and its values are the default here; so are the clipping at 1.1 and the damping. The largest entries
of QL and QR are made equal at every refresh, which changes u by rounding alone; there it is every hundredth. V depends
on the seed, the step and the parameter, and so neither on resumes nor on ranks. There the momentum that u is made of
has the damping's noise in it too.

A factor is diagonal where a side is longer than `max_side`, as a vocabulary's is, or where `memory_save` says so. Of a
table (embedding, learned positions, a head) the rows' factor is always diagonal: a number for each token, which is what
the authors' limit of 8192 gives a vocabulary; theirs mixes positions, which are fewer. Of vectors Q is diagonal, and
they are not decayed. A fused QKV is three matrices, which the authors' code takes as one (`split_qkv=false`).
"""

import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import Objective, Optimizer, state_dtype
from .checks import check_at_least, check_betas, check_common
from .kronecker import SIDES
from .param_groups import by_table
from .pieces import Matrix, matrices
from .registry import register
from .treatment import Treatment, treatment
from .triangular import (
    fit_,
    fit_flops,
    times,
    times_flops,
    transposed_solve,
    transposed_solve_flops,
    transposed_times,
)

MODES = ("none", "smart_one_diag", "one_diag", "all_diag")


class Refreshes:
    """The updates that refresh the preconditioner, a function of their number alone.

    An interval between two is 1 for the first `flat_start` updates, and from there the least whole number that is not
    below e^(anneal n), nor above `every`.
    """

    def __init__(self, every: int, flat_start: int, anneal: float) -> None:
        self.every, self.flat_start, self.anneal = every, flat_start, anneal
        self._due: list[bool] = []
        self._since = 0

    def due(self, update: int) -> bool:
        """Tell whether an update, counted from 0, is one of them."""
        while len(self._due) <= update:
            self._since += 1
            grown = min(self.anneal * max(0, len(self._due) - self.flat_start), math.log(self.every))
            self._due.append(self._since >= min(math.exp(grown), self.every))
            if self._due[-1]:
                self._since = 0
        return self._due[update]


@register(
    "psgd_kron",
    summary="momentum whitened by fitted triangular Kronecker factors",
    paper="arXiv 1512.04202, 2402.11858",
    presets="The values are the defaults of kron_torch. `whiten=gradient` fits the factors to the gradient instead of "
    "the momentum. `block=256 unit_grads=true` is how Wen et al. ran Levanter's; modded-nanogpt's track 3 has "
    "`every=1 preconditioner_lr=1 momentum=.95` on hidden matrices, and a hyperball in place of clipping and decay.",
    pitfalls="A refresh costs several times what a step does, and the first 500 updates are all refreshes: a short run "
    "pays for them throughout. Where gradients are exactly 0 nothing holds the factors back, and they grow by "
    "preconditioner_lr at each refresh.",
    proof="tests/test_psgd_kron.py",
)
class PSGDKron(Optimizer):
    """The state of an (a, b) matrix is `m`, `step`, and its factors `left` (a, a) or (a,), `right` (b, b) or (b,); of
    all else `left` has the parameter's shape. Of a parameter in pieces each has its own, named `left.0` and so on.

    Args:
        params: groups, those of tables with a key `table`: True; of parameters that hold several matrices with the
            `outputs` of each, and `transposed`: True where those are the columns.
        momentum: b.
        preconditioner_lr: c; each refresh changes a factor by so much of itself at most.
        preconditioner_scale: of the product of QL and QR at first.
        every: updates between refreshes in the end.
        flat_start: updates that are all refreshes, at first.
        anneal: growth of the interval's logarithm per update from then on, until it has come to `every`.
        damping: noise in what the factors are fitted to, as a share of its mean size.
        whiten: fit the factors to the momentum or to the gradient.
        max_rms: clip the preconditioned momentum to this root mean square; null: do not.
        unit_grads: divide each matrix's gradient by its norm first.
        max_side: a longer side has a diagonal factor.
        memory_save: more diagonal factors: none, that of the longer of two unlike sides (smart_one_diag), that of the
            longer one or of a square's columns (one_diag), or all (all_diag).
        split_qkv: take apart what holds several matrices, as a fused qkv does; False: it is one matrix.
        block: cut matrices into blocks of so many rows and columns at most, each with its own factors; null: whole.
        weight_decay: wd.
    """

    groups, mark = staticmethod(by_table), "table"

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 3e-4,
        momentum: float = 0.9,
        preconditioner_lr: float = 0.1,
        preconditioner_scale: float = 1.0,
        every: int = 34,
        flat_start: int = 500,
        anneal: float = 1e-3,
        damping: float = 2**-11.5,
        whiten: Literal["momentum", "gradient"] = "momentum",
        max_rms: float | None = 1.1,
        unit_grads: bool = False,
        max_side: int = 8192,
        memory_save: Literal["none", "smart_one_diag", "one_diag", "all_diag"] = "none",
        split_qkv: bool = True,
        block: int | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas([momentum], "momentum")
        for name, value, least in (
            ("every", every, 1), ("flat_start", flat_start, 0), ("anneal", anneal, 0), ("damping", damping, 0),
            ("max_side", max_side, 1), ("block", 1 if block is None else block, 1),
        ):  # fmt: skip
            check_at_least(name, value, least)
        for name, positive in (
            ("preconditioner_lr", preconditioner_lr), ("preconditioner_scale", preconditioner_scale),
            ("max_rms", 1.0 if max_rms is None else max_rms),
        ):  # fmt: skip
            if positive <= 0:
                raise ValueError(f"{name} must be above 0, not {positive}")
        if whiten not in ("momentum", "gradient"):
            raise ValueError(f"whiten must be momentum or gradient, not {whiten!r}")
        if memory_save not in MODES:
            raise ValueError(f"memory_save must be {', '.join(MODES)}, not {memory_save!r}")
        self.refreshes, self.every = Refreshes(every, flat_start, anneal), every
        self.rate, self.scale, self.damping = preconditioner_lr, preconditioner_scale, damping
        self.whiten, self.max_rms, self.unit_grads = whiten, max_rms, unit_grads
        self.max_side, self.memory_save = max_side, memory_save
        self.cutting: dict[str, Any] = {"split": split_qkv, "block": block, "every": 1, "stagger": False}
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "table": False}
        super().__init__(params, defaults)

    def arrange(self) -> None:
        self.matrices = matrices(self.param_groups, self._triangles, self._refresh_flops, **self.cutting)
        self.places = {p: i for i, p in enumerate(self.matrices)}

    def _triangles(self, shape: Sequence[int], table: bool) -> list[int]:
        """Return the sides whose factor is a triangle: 0 the rows, 1 the columns."""
        if len(shape) != 2 or self.memory_save == "all_diag":
            return []
        diagonal = {0} if table else set()
        if self.memory_save == "one_diag" or (self.memory_save == "smart_one_diag" and shape[0] != shape[1]):
            diagonal |= {0 if shape[0] > shape[1] else 1}
        return [axis for axis in (0, 1) if axis not in diagonal and 1 < shape[axis] <= self.max_side]

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        own = self.matrices[p]
        named = [f"{('rows', 'columns')[axis]} ({own[0].piece.shape[axis]})" for axis in own[0].sides]
        rule = "momentum, whitened " + (f"by triangles for its {' and '.join(named)}" if named else "entry by entry")
        rule += f", as {len(own)} matrices" if len(own) > 1 else ""
        numbers, flops = p.numel(), 0.0
        for (_, shape, _), triangles, _ in own:
            numbers += sum(math.prod(each) for each in self._factor_shapes(shape, triangles))
            flops += self._step_flops(shape, triangles) + self._refresh_flops(shape, triangles) / self.every
        return treatment(p, rule, numbers, counts=len(own), flops=flops, moved=2 * p.numel())

    @torch._disable_dynamo  # whose graphs of it draw other noise in torch 2.13
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss = objective()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group, objective)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any], objective: Objective) -> None:
        """Update one parameter, piece by piece."""
        g, flops = p.grad.to(state_dtype(p)), 0  # type: ignore[union-attr]
        for matrix in self.matrices[p]:
            piece = matrix.piece
            state, own = piece.state(self.state[p]), piece.of(g)
            if "m" not in state:
                self._begin(own, state, matrix)
            state["step"] += 1
            t = int(state["step"].item())
            if self.unit_grads:
                own = own / (torch.linalg.vector_norm(own) + 1e-16)
            m = state["m"].lerp_(own, 1 - group["momentum"]) / (1 - group["momentum"] ** t)
            if self.refreshes.due(t - 1):
                draw = objective.generator(("whitening", self.places[p], piece.suffix))
                self._refresh(m if self.whiten == "momentum" else own, state, draw)
                flops += self._refresh_flops(piece.shape, matrix.sides)
            update = self._whitened(m, state)
            flops += self._step_flops(piece.shape, matrix.sides)
            if self.max_rms is not None:
                update.mul_((self.max_rms / (update.square().mean().sqrt() + 1e-12)).clamp(max=1.0))
            weight = piece.of(p)
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        objective.charge(flops)

    def _begin(self, g: Tensor, state: MutableMapping[str, Tensor], matrix: Matrix) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"] = torch.zeros_like(g)
        shapes = self._factor_shapes(matrix.piece.shape, matrix.sides)
        scale = self.scale ** (1 / len(shapes))
        for axis, shape in enumerate(shapes):
            if g.ndim == 2 and len(shape) == 2:
                state[SIDES[axis]] = torch.eye(shape[0], dtype=g.dtype, device=g.device).mul_(scale)
            else:
                state[SIDES[axis]] = g.new_full(shape, scale)

    def _factor_shapes(self, shape: Sequence[int], triangles: Sequence[int]) -> list[tuple[int, ...]]:
        if len(shape) != 2:
            return [tuple(shape)]
        return [(shape[axis],) * (2 if axis in triangles else 1) for axis in (0, 1)]

    def _refresh(self, g: Tensor, state: MutableMapping[str, Tensor], draw: torch.Generator) -> None:
        """Fit the factors to a gradient, or momentum, of their shape."""
        v = torch.randn(g.shape, generator=draw, dtype=g.dtype, device=g.device)
        if self.damping:
            g = g + (self.damping * g.abs().mean()) * v
        left = state["left"]
        if "right" not in state:
            flat = left.view(-1)
            fit_(flat, (left * g).view(-1, 1), (v / left).view(-1, 1), self.rate)
            return
        right = state["right"]
        balance = (right.abs().max() / left.abs().max()).sqrt()
        left.mul_(balance)
        right.div_(balance)
        a = times(left, times(right, g.mT).mT)
        b = transposed_solve(left, transposed_solve(right, v.mT).mT)
        fit_(left, a, b, self.rate)
        fit_(right, a.mT, b.mT, self.rate)

    def _whitened(self, m: Tensor, state: MutableMapping[str, Tensor]) -> Tensor:
        """Return QL^T QL m QR^T QR."""
        left = state["left"]
        if "right" not in state:
            return left.square() * m
        right = state["right"]
        half = transposed_times(right, times(right, m.mT)).mT
        return transposed_times(left, times(left, half))

    def _step_flops(self, shape: Sequence[int], triangles: Sequence[int]) -> int:
        return sum(2 * times_flops(shape[axis], shape[1 - axis]) for axis in triangles)

    def _refresh_flops(self, shape: Sequence[int], triangles: Sequence[int]) -> int:
        counts = (times_flops, transposed_solve_flops, fit_flops)
        return sum(count(shape[axis], shape[1 - axis]) for axis in triangles for count in counts)
