"""KL-SOAP: SOAP whose factors each see the gradient whitened by the other (W. Lin et al., arXiv 2509.03378).

    G' = QL^T G QR,   M, V and the step as in SOAP
    L <- b3 L + (1 - b3) / n G R^-1 G^T           of an (m, n) gradient; R^-1 = QR diag(1 / r) QR^T
    R <- b3 R + (1 - b3) / m G^T L^-1 G           L^-1 = QL diag(1 / l) QL^T
    l_i <- b3 l_i + (1 - b3) mean_j G'_ij^2 / r_j
    r_j <- b3 r_j + (1 - b3) mean_i G'_ij^2 / l_i
    every k steps: QL <- qr(L QL),  QR <- qr(R QR); M is rotated with them

L and R are those of the Kronecker product nearest to E[vec G vec G^T] by the Kullback-Leibler divergence, which needs
both at once; SOAP's would each be right if the other were I. Their eigenvalues l and r are averages too, in whatever
basis there is, so that they need no decomposition; l, r, L and R on the right are those before the update.

All is as in the authors' code (yorkerlin/KL-Methods, optim/kl_opt.py): the first gradient only starts L and R, by
G G^T / n and G^T G / m; l and r start at `first_eigenvalue`; their inverse roots are at most `clamp`, or the side's
length where that is less, but 10 at least; no bias is corrected; and neither eigenvalues nor V are sorted at a refresh,
as SOAP's are. Its products are in bfloat16 by default; here they are as exact as the state. Others differ:
modded-nanogpt's track 3 clamps at 4000 on every side; HeavyBall's KLSOAP and NVIDIA's REKLS take the diagonals of
QL^T L QL and QR^T R QR for l and r, and correct the bias; REKLS decomposes L and R in each step.

The authors treat hidden matrices; what has one side rotated, as tables here, has nothing to be whitened by: its factor
is SOAP's. Vectors and the choice of sides are SOAP's too.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .bases import Bases, State
from .checks import check_at_least
from .kronecker import complete_
from .registry import register
from .rotation import rotate, rotation_flops
from .soap import SOAP

LEAST_CLAMP = 10  # as in the authors' code


class KlBases(Bases):
    """Eigenbases of factors that are each averaged over gradients whitened by the other; `left_values` is l.

    Args:
        first_eigenvalue: of both factors.
        clamp: the inverse root of an eigenvalue is no larger; nor than the side's length, but for LEAST_CLAMP.
        settings: as `Bases` has them.
    """

    def __init__(self, first_eigenvalue: float, clamp: float, **settings: Any) -> None:
        if first_eigenvalue <= 0:
            raise ValueError(f"first_eigenvalue must be above 0, not {first_eigenvalue}")
        check_at_least("clamp", clamp, 1)
        self.first_eigenvalue, self.clamp = first_eigenvalue, clamp
        super().__init__(**settings)

    def begin(self, g: Tensor, state: State, axes: list[int], beta: float) -> int:
        flops = super().begin(g, state, axes, beta)
        if len(axes) == 2:
            for side in ("left", "right"):
                state[side].div_(g.shape[1 if side == "left" else 0])
                state[f"{side}_values"].fill_(self.first_eigenvalue)
        return flops

    def enter(self, g: Tensor, state: State, axes: list[int], beta: float) -> Tensor:
        if len(axes) < 2:
            return super().enter(g, state, axes, beta)
        m, n = g.shape
        half = rotate(g, {"left_basis": state["left_basis"]}, self.projection_dtype)  # QL^T G
        rotated = rotate(half, {"right_basis": state["right_basis"]}, self.projection_dtype)
        left, right = (state[f"{side}_values"].rsqrt() for side in ("left", "right"))  # l^-1/2, r^-1/2
        average = self._gram_kernel()[0]
        average(state["left"], (g @ state["right_basis"]).mul_(right / n**0.5), beta)
        average(state["right"], half.mul_(left[:, None] / m**0.5).mT, beta)
        self._average_values(state["left_values"], (rotated * right).square_().mean(1), beta)
        self._average_values(state["right_values"], (rotated * left[:, None]).square_().mean(0), beta)
        return rotated

    def _average_values(self, values: Tensor, seen: Tensor, beta: float) -> None:
        largest = max(LEAST_CLAMP, min(len(values), self.clamp))
        values.lerp_(seen, 1 - beta).clamp_(min=largest**-2)

    def step_flops(self, shape: Sequence[int], axes: list[int]) -> int:
        return super().step_flops(shape, axes) + (rotation_flops(shape, [1]) if len(axes) == 2 else 0)  # G QR

    def _next_power(self, state: State, side: str) -> tuple[Tensor, Tensor, Tensor]:
        if "left" not in state or "right" not in state:
            return super()._next_power(state, side)
        order = torch.arange(len(state[side]), device=state[side].device)
        return complete_(state[side]) @ state[f"{side}_basis"], order, state[f"{side}_values"]


@register(
    "kl_soap",
    summary="SOAP with factors that whiten each other's gradients",
    paper="arXiv 2509.03378",
    presets="None: the paper and its authors' code agree. The defaults are that code's, but for its rate of 1e-4, in "
    "whose place stands the 3e-3 that its docstring names, and its bfloat16. `correct_bias=true` is HeavyBall's and "
    "NVIDIA's way.",
    pitfalls="A step costs one more product with the gradient's shape than SOAP's. Without bias correction the first "
    "steps are larger than later ones, up to (1 - b1) / sqrt(1 - b2) of them; a warm-up hides it.",
    proof="tests/test_kl_soap.py",
)
class KLSOAP(SOAP):
    """The state is SOAP's; where both sides of a matrix are rotated, `left_values` and `right_values` are l and r.

    Args:
        params: as SOAP has them, and the other keywords too.
        first_eigenvalue: of l and r; the authors' init_factor.
        clamp: the largest inverse root of an eigenvalue, see above; the authors' max_clamp_value.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        every: int = 10,
        max_side: int = 10000,
        split_qkv: bool = True,
        block: int | None = None,
        first_eigenvalue: float = 0.1,
        clamp: float = 4000.0,
        normalize_grads: bool = False,
        correct_bias: bool = False,
        stagger: bool = False,
        projection_dtype: Literal["float32", "tf32", "bfloat16"] = "float32",
        qr: Literal["householder", "cholesky"] = "householder",
        gram: Literal["strips", "triton"] = "strips",
        weight_decay: float = 0.01,
    ) -> None:
        self.first_eigenvalue, self.clamp = first_eigenvalue, clamp
        super().__init__(
            params, lr, betas, shampoo_beta, eps, every, max_side, split_qkv, block, normalize_grads=normalize_grads,
            correct_bias=correct_bias, stagger=stagger, projection_dtype=projection_dtype, qr=qr, gram=gram,
            weight_decay=weight_decay,
        )  # fmt: skip

    def bases_of(self, **settings: Any) -> Bases:
        return KlBases(self.first_eigenvalue, self.clamp, **settings)
