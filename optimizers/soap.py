"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv 2409.11321, algorithm 3).

    G' = QL^T G QR
    M <- b1 M + (1 - b1) G'                        both in the basis
    V <- b2 V + (1 - b2) G'^2
    w <- w - lr sqrt(1 - b2^t) / (1 - b1^t)  QL (M / (sqrt(V) + eps)) QR^T
    w <- w - lr wd w
    L <- b3 L + (1 - b3) G G^T,   R <- b3 R + (1 - b3) G^T G      b3 = shampoo_beta, or b2
    every k steps: QL, QR follow L, R; M is rotated and V permuted with them

QL and QR are the eigenvectors of L and R: by eigh the first time, by one step of the power iteration and QR from then
on. As in the authors' code the first gradient only starts L and R, so that no gradient is ever seen in a basis made
from itself; t counts from the second. They rotate the momentum back and forth each step, which changes nothing while
the basis stands; kept in the basis it takes three products with G's shape per step and side instead of five.

Which sides are rotated:
- of a matrix, each side no longer than `max_side`. A fused QKV is three matrices, which trains better (gpt2_pico, 400
  updates, three seeds: 1.927 nats per token against 2.001) and costs less. The authors' was one, with a basis of three
  times the width (`split_qkv=false`): they trained OLMo's models, whose `att_proj` is fused by default (allenai/OLMo,
  olmo/model.py, OLMoSequentialBlock), and their code for OLMo knows a matrix with one side three times the other
  (nikhilvyas/SOAP_MUON, olmo_optimimzer.py, projection types sp1 and sp2);
- of a table (embedding, learned positions, a head tied to one), the width alone, Q = I on the rows. The authors' code
  decides by shape: its limit of 10000 leaves out a vocabulary's rows, but rotates both sides of learned positions,
  which are fewer. A vocabulary of bytes is shorter too, and mixing its tokens costs dear (300 updates of gpt2_pico, one
  seed: 2.46 nats per token instead of 2.16);
- of vectors none: theirs is Adam, a step late.
"""

import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import Optimizer, Reading, state_dtype
from .checks import check_at_least, check_betas, check_common
from .eigenbasis import (
    cholesky_orthonormal,
    first_basis,
    first_basis_flops,
    next_basis_flops,
    next_power,
    orthonormal,
)
from .kronecker import average_gram_, complete_, gram_flops, spectrum_readings
from .param_groups import by_table
from .pieces import Matrix, matrices
from .registry import register
from .rotation import DTYPES, rotate, rotate_back, rotation_flops
from .treatment import Treatment, treatment

SIDES = ("left", "right")
NOTHING = 1e-30  # a root mean square is never divided by less, in the authors' code
State = MutableMapping[str, Tensor]


@register(
    "soap",
    summary="Adam in the eigenbasis of Shampoo's preconditioner",
    paper="arXiv 2409.11321",
    presets="None: the paper's algorithm and its authors' code agree, but for the first gradient, which the code "
    "spends on L and R alone, and for weight decay, which it takes after the step; both are as in the code. The "
    "paper's variants are `one_sided` and `factorized`, the code's `shampoo_beta`, `normalize_grads` and "
    "`correct_bias`. `split_qkv=false` takes a fused qkv as one matrix, as in the authors' runs; `block` cuts matrices "
    "as Meta's Shampoo does.",
    pitfalls="The implementation decides the wall-clock: the authors' took twice AdamW's step in a published trace. A "
    "fused QKV as one matrix has a factor three times as wide, whose refresh takes 9 times that of three. With a "
    "refresh every 10 steps in the first hundred updates the basis lags; a "
    "warm-up hides it.",
    proof="tests/test_soap.py",
)
class SOAP(Optimizer):
    """The state of an (a, b) matrix is `step`; `m`, and `v` or its `rows` (a,) and `columns` (b,), in the basis; and
    for each side of length n its factor, e.g. `left` (n, n), `left_basis` (n, n), `left_values` (n,). Of a parameter in
    pieces each has its own, named `left.0`, `left_basis.0` and so on.

    Args:
        params: groups, those of tables with a key `table`: True; of parameters that hold several matrices with the
            `outputs` of each, and `transposed`: True where those are the columns.
        betas: decay of the momentum; of V, and of L and R too without a shampoo_beta.
        shampoo_beta: decay of L and R; null: betas[1], so that whoever tunes that changes all three.
        every: updates between refreshes of the basis.
        max_side: a longer side is not rotated.
        split_qkv: take apart what holds several matrices, as a fused qkv does; False: it is one matrix.
        block: cut matrices into blocks of so many rows and columns at most, each with its own bases; null: whole.
        one_sided: rotate the shorter side only (of a square: the right); the paper's section 7.
        factorized: V = rows columns^T / sum(rows), as Adafactor's; the paper's section 7.
        normalize_grads: scale each parameter's step to a root mean square of lr; of use where `every` is about 100, say
            the authors.
        correct_bias: the factor sqrt(1 - b2^t) / (1 - b1^t); False: 1.
        stagger: refresh different matrices on different steps, so that no step takes much longer than another.
        projection_dtype: of the products that take the gradient into the basis and the step out of it; all else is
            float32, or wider with the weights. bfloat16 halves their time on processors that have it, tf32 is for CUDA;
            neither is measured on a GPU yet.
        qr: cholesky is quicker on a GPU by the estimates, which is not measured yet; on a CPU householder is.
        gram: of L and R, strips of plain products, or one kernel for the triangle: CUDA only, not measured yet either.
    """

    groups, mark = staticmethod(by_table), "table"

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        every: int = 10,
        max_side: int = 10000,
        split_qkv: bool = True,
        block: int | None = None,
        one_sided: bool = False,
        factorized: bool = False,
        normalize_grads: bool = False,
        correct_bias: bool = True,
        stagger: bool = False,
        projection_dtype: Literal["float32", "tf32", "bfloat16"] = "float32",
        qr: Literal["householder", "cholesky"] = "householder",
        gram: Literal["strips", "triton"] = "strips",
        weight_decay: float = 0.01,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_betas([betas[1] if shampoo_beta is None else shampoo_beta], "shampoo_beta")
        check_at_least("eps", eps, 0)
        check_at_least("every", every, 1)
        check_at_least("max_side", max_side, 1)
        if block is not None:
            check_at_least("block", block, 1)
        if projection_dtype not in DTYPES:
            raise ValueError(f"projection_dtype must be {', '.join(DTYPES)}, not {projection_dtype!r}")
        if qr not in ("householder", "cholesky"):
            raise ValueError(f"qr must be householder or cholesky, not {qr!r}")
        self.every, self.max_side, self.one_sided, self.factorized = every, max_side, one_sided, factorized
        if gram not in ("strips", "triton"):
            raise ValueError(f"gram must be strips or triton, not {gram!r}")
        self.projection_dtype, self.qr, self.gram = projection_dtype, qr, gram
        self.cutting: dict[str, Any] = {"split": split_qkv, "block": block, "every": every, "stagger": stagger}
        self.shampoo_beta, self.normalize_grads, self.correct_bias = shampoo_beta, normalize_grads, correct_bias
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "table": False}
        super().__init__(params, defaults)
        if any(p.device.type == "cpu" for group in self.param_groups for p in group["params"]):
            if projection_dtype == "tf32":
                raise ValueError("projection_dtype must be float32 or bfloat16 where the model is on no CUDA device")
            if gram == "triton":
                raise ValueError("gram must be strips where the model is on no CUDA device")
        self.unsure: list[tuple[State, Matrix, int, Tensor]] = []  # refreshed in this step, if Cholesky's factor exists

    def arrange(self) -> None:
        self.matrices = matrices(self.param_groups, self._axes, self._qr_flops, **self.cutting)

    def _axes(self, shape: Sequence[int], table: bool) -> list[int]:
        """Return the sides that are rotated: 0 the rows, 1 the columns."""
        if len(shape) != 2:
            return []
        axes = [1] if table else [0, 1]
        if self.one_sided and not table:
            axes = [0] if shape[0] < shape[1] else [1]
        return [axis for axis in axes if shape[axis] <= self.max_side]

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        own = self.matrices[p]
        named = [f"{('rows', 'columns')[axis]} ({own[0].piece.shape[axis]})" for axis in own[0].sides]
        rule = f"Adam in the eigenbasis of its {' and '.join(named)}" if named else "Adam"
        rule += f", as {len(own)} matrices" if len(own) > 1 else ""
        moments, numbers, flops, rotations = 0, 0, 0.0, 0
        for (_, shape, _), axes, _ in own:
            moments += math.prod(shape) + (sum(shape) if self.factorized and len(shape) == 2 else math.prod(shape))
            numbers += sum(2 * shape[axis] ** 2 + shape[axis] for axis in axes)
            turns = 2 * rotation_flops(shape, axes)  # in and out; a refresh makes as many for the momentum
            rotations += turns
            flops += turns + self._gram_flops(shape, axes) + (turns + self._qr_flops(shape, axes)) / self.every
        return treatment(p, rule, moments + numbers, len(own), flops, 2 * moments, self.projection_dtype, rotations)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss, charge = objective(), objective.charge
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    charge(self._update(p, group))
        charge(self._mend())
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> int:
        """Update one parameter, piece by piece; return the FLOPs of it."""
        state, g = self.state[p], p.grad.to(state_dtype(p))  # type: ignore[union-attr]
        matrices = self.matrices[p]
        return sum(self._update_matrix(m.piece.of(p), m.piece.of(g), m.piece.state(state), m, group) for m in matrices)

    def _update_matrix(self, p: Tensor, g: Tensor, state: State, matrix: Matrix, group: dict[str, Any]) -> int:
        beta1, beta2 = group["betas"]
        beta3 = beta2 if self.shampoo_beta is None else self.shampoo_beta
        axes, shape = matrix.sides, matrix.piece.shape
        if "step" not in state:
            self._begin(g, state, axes)
            return self._average_factors(g, state, axes, beta3) + self._find_basis(state, axes)
        state["step"] += 1
        t = state["step"].item()
        rotated = rotate(g, state, self.projection_dtype)
        m = state["m"].lerp_(rotated, 1 - beta1)
        squared = rotated.square_() if axes else rotated.square()  # what is not rotated is the gradient itself
        root = self._root_of_v(squared, state, beta2)
        update = torch.div(m, root.add_(group["eps"]), out=root)
        correction = (1 - beta2**t) ** 0.5 / (1 - beta1**t) if self.correct_bias else 1.0
        size = group["lr"] * correction
        update = rotate_back(update, state, self.projection_dtype)
        if self.normalize_grads:
            update = update / (update.square().mean().sqrt_() + NOTHING)
        p.add_(update, alpha=-size).mul_(1 - group["lr"] * group["weight_decay"])
        flops = 2 * rotation_flops(shape, axes) + self._average_factors(g, state, axes, beta3)
        if t % self.every == matrix.due:
            flops += self._follow_basis(state, matrix, axes)
        return flops

    def _begin(self, g: Tensor, state: State, axes: list[int]) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"] = torch.zeros_like(g)
        if self.factorized and g.ndim == 2:
            state["rows"], state["columns"] = torch.zeros_like(g[:, 0]), torch.zeros_like(g[0])
        else:
            state["v"] = torch.zeros_like(g)
        for axis in axes:
            state[SIDES[axis]] = g.new_zeros(g.shape[axis], g.shape[axis])

    def _root_of_v(self, squared: Tensor, state: State, beta2: float) -> Tensor:
        """Average V and return its root, which takes the squares' memory."""
        if "v" in state:
            return torch.sqrt(state["v"].lerp_(squared, 1 - beta2), out=squared)
        rows = state["rows"].lerp_(squared.sum(1), 1 - beta2)
        columns = state["columns"].lerp_(squared.sum(0), 1 - beta2)
        share = rows / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny)
        return torch.outer(share.sqrt(), columns.sqrt(), out=squared)

    def _average_factors(self, g: Tensor, state: State, axes: list[int], beta: float) -> int:
        average = self._gram_kernel()[0]
        for axis in axes:
            average(state[SIDES[axis]], g if axis == 0 else g.mT, beta)
        return self._gram_flops(g.shape, axes)

    def _gram_flops(self, shape: Sequence[int], axes: list[int]) -> int:
        return sum(self._gram_kernel()[1](shape[axis], shape[1 - axis]) for axis in axes)

    def _gram_kernel(self) -> tuple[Callable[[Tensor, Tensor, float], Tensor], Callable[[int, int], int]]:
        """Return the function that averages x x^T into a factor, and one that counts its FLOPs."""
        if self.gram == "triton":
            from . import gram_triton

            return gram_triton.average_gram_, gram_triton.gram_flops
        return average_gram_, gram_flops

    def _find_basis(self, state: State, axes: list[int]) -> int:
        for side in (SIDES[axis] for axis in axes):
            state[f"{side}_basis"], state[f"{side}_values"] = first_basis(complete_(state[side]))
        return sum(first_basis_flops(len(state[SIDES[axis]])) for axis in axes)

    def _follow_basis(self, state: State, matrix: Matrix, axes: list[int], qr: str = "") -> int:
        """Refresh the bases of some of a matrix's sides; return the FLOPs of it."""
        qr = qr or self.qr
        momentum = rotate_back(state["m"], state)
        for axis in axes:
            side = SIDES[axis]
            power, order, values = next_power(complete_(state[side]), state[f"{side}_basis"])
            if qr == "cholesky":
                basis, sound = cholesky_orthonormal(power)
                # Where it failed the basis stays as it is; the choice is made on the device, and read by _mend.
                basis = torch.where(sound, basis, state[f"{side}_basis"])
                order = torch.where(sound, order, torch.arange(len(order), device=order.device))
                self.unsure.append((state, matrix, axis, sound))
            else:
                basis = orthonormal(power)
            state[f"{side}_basis"], state[f"{side}_values"] = basis, values
            if "v" in state:
                state["v"] = state["v"].index_select(axis, order)
            else:
                sums = ("rows", "columns")[axis]
                state[sums] = state[sums][order]
        state["m"] = rotate(momentum, state)
        shape = matrix.piece.shape
        return 2 * rotation_flops(shape, matrix.sides) + self._qr_flops(shape, axes, qr)

    def _mend(self) -> int:
        """Follow by Householder's reflections where Cholesky's factor did not exist; one wait for the device."""
        if not self.unsure:
            return 0
        unsure, self.unsure = self.unsure, []
        sound = torch.stack([each for *_, each in unsure]).tolist()
        failed = [each for each, fine in zip(unsure, sound, strict=True) if not fine]
        return sum(self._follow_basis(state, matrix, [axis], "householder") for state, matrix, axis, _ in failed)

    def _qr_flops(self, shape: Sequence[int], axes: list[int], qr: str = "") -> int:
        return sum(next_basis_flops(shape[axis], qr or self.qr) for axis in axes)

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        """Return condition and effective rank of the factors L and R as of their last refresh."""
        states = self.state.values()
        return spectrum_readings(value for s in states for key, value in s.items() if "_values" in key)
