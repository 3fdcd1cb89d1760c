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
- of a matrix, each side no longer than `max_side`. A fused QKV is three matrices, which trains better at first
  (gpt2_pico, 400 updates, three seeds: 1.927 nats per token against 2.001; 1,000 updates, the best of 8 settings each,
  one seed: 1.487 against 1.492) and costs less. The authors' was one, with a basis of three times the width
  (`split_qkv=false`): they trained OLMo's models, whose `att_proj` is fused by default (allenai/OLMo, olmo/model.py,
  OLMoSequentialBlock), and their code for OLMo knows a matrix with one side three times the other
  (nikhilvyas/SOAP_MUON, olmo_optimimzer.py, projection types sp1 and sp2);
- of a table (embedding, learned positions, a head tied to one), the width alone, Q = I on the rows. The authors' code
  decides by shape: its limit of 10000 leaves out a vocabulary's rows, but rotates both sides of learned positions,
  which are fewer. A vocabulary of bytes is shorter too, and mixing its tokens costs dear (300 updates of gpt2_pico, one
  seed: 2.46 nats per token instead of 2.16);
- of vectors none: theirs is Adam, a step late.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import Optimizer, Reading, state_dtype
from .bases import Bases, State
from .checks import check_at_least, check_betas, check_common
from .param_groups import by_table
from .pieces import Matrix
from .registry import register
from .treatment import Treatment, treatment

NOTHING = 1e-30  # a root mean square is never divided by less, in the authors' code


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
    "refresh every 10 steps in the first hundred updates the basis lags; a warm-up hides it.",
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
        self.bases = self.bases_of(
            every=every, max_side=max_side, split_qkv=split_qkv, block=block, one_sided=one_sided, stagger=stagger,
            projection_dtype=projection_dtype, qr=qr, gram=gram,
        )  # fmt: skip
        self.factorized = factorized
        self.shampoo_beta, self.normalize_grads, self.correct_bias = shampoo_beta, normalize_grads, correct_bias
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "table": False}
        super().__init__(params, defaults)

    def bases_of(self, **settings: Any) -> Bases:
        """Return the rules of the eigenbases; a variant of SOAP may have others."""
        return Bases(**settings)

    def arrange(self) -> None:
        self.matrices = self.bases.lay_out(self.param_groups)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        own = self.matrices[p]
        rule = f"Adam {self.bases.rule(own[0])}".strip() + (f", as {len(own)} matrices" if len(own) > 1 else "")
        shapes = [each.piece.shape for each in own]
        moments = p.numel() + sum(
            sum(shape) if self.factorized and len(shape) == 2 else math.prod(shape) for shape in shapes
        )
        numbers = moments + sum(self.bases.numbers(each) for each in own)
        flops = sum(self.bases.mean_flops(each) for each in own)
        rotations = sum(self.bases.projection_flops(each) for each in own)
        precision = self.bases.projection_dtype
        return treatment(p, rule, numbers, len(own), flops, 2 * moments, precision, rotations)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss, charge = objective(), objective.charge
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    charge(self._update(p, group))
        charge(self.bases.mend())
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> int:
        """Update one parameter, piece by piece; return the FLOPs of it."""
        state, g = self.state[p], p.grad.to(state_dtype(p))  # type: ignore[union-attr]
        matrices = self.matrices[p]
        return sum(self._update_matrix(m.piece.of(p), m.piece.of(g), m.piece.state(state), m, group) for m in matrices)

    def _update_matrix(self, p: Tensor, g: Tensor, state: State, matrix: Matrix, group: dict[str, Any]) -> int:
        beta1, beta2 = group["betas"]
        beta3 = beta2 if self.shampoo_beta is None else self.shampoo_beta
        axes = matrix.sides
        if "step" not in state:
            self._begin(g, state)
            return self.bases.begin(g, state, axes, beta3)
        state["step"] += 1
        t = state["step"].item()
        rotated = self.bases.enter(g, state, axes, beta3)
        m = state["m"].lerp_(rotated, 1 - beta1)
        squared = rotated.square_() if axes else rotated.square()  # what is not rotated is the gradient itself
        root = self._root_of_v(squared, state, beta2)
        update = torch.div(m, root.add_(group["eps"]), out=root)
        correction = (1 - beta2**t) ** 0.5 / (1 - beta1**t) if self.correct_bias else 1.0
        size = group["lr"] * correction
        update = self.bases.leave(update, state)
        if self.normalize_grads:
            update = update / (update.square().mean().sqrt_() + NOTHING)
        p.add_(update, alpha=-size).mul_(1 - group["lr"] * group["weight_decay"])
        return self.bases.step_flops(matrix.piece.shape, axes) + self.bases.refresh(state, matrix, t)

    def _begin(self, g: Tensor, state: State) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"] = torch.zeros_like(g)
        if self.factorized and g.ndim == 2:
            state["rows"], state["columns"] = torch.zeros_like(g[:, 0]), torch.zeros_like(g[0])
        else:
            state["v"] = torch.zeros_like(g)

    def _root_of_v(self, squared: Tensor, state: State, beta2: float) -> Tensor:
        """Average V and return its root, which takes the squares' memory."""
        if "v" in state:
            return torch.sqrt(state["v"].lerp_(squared, 1 - beta2), out=squared)
        rows = state["rows"].lerp_(squared.sum(1), 1 - beta2)
        columns = state["columns"].lerp_(squared.sum(0), 1 - beta2)
        share = rows / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny)
        return torch.outer(share.sqrt(), columns.sqrt(), out=squared)

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        return self.bases.readings(self.state.values())
