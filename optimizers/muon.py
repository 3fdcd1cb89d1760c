"""Muon: momentum, orthogonalised (K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).

    m <- b m + (1 - b) g
    u = (1 - b) g + b m  with Nesterov, else m
    w <- w - lr wd w - lr s NewtonSchulz(u)

on hidden matrices (outputs, inputs), as the model's roles name them; embeddings, head and vectors get AdamW at their
own rate. Rows are outputs and columns inputs, also of a matrix that is kept transposed, as in transformers' Conv1D.

A fused qkv is three matrices, each orthogonalised by itself, as in the author's own training script for GPT-2
(modded-nanogpt, October 2024): as one matrix the largest of the three momenta would take most of the step.

    s = sqrt(max(1, rows / columns))     `scale=spectral`, the author's
    s = .2 sqrt(max(rows, columns))      `scale=match_rms` (Liu et al., arXiv 2502.16982): a step about as large as
                                         AdamW's, so that both parts share one rate and one decay (`adamw_lr=null`)
"""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn

from .backends import adamw
from .checks import check_at_least, check_betas, check_common
from .param_groups import Group, by_kind
from .registry import register
from .spectral import Spectral
from .treatment import Treatment, treatment


@register(
    "muon",
    summary="orthogonalised momentum on hidden matrices",
    paper="Jordan et al. 2024",
    presets="`scale=spectral` with two rates is the author's Muon, `scale=match_rms` with `adamw_lr=null` Moonshot's. "
    "`split_qkv=false` takes a fused qkv as one matrix.",
    pitfalls="Two rates to tune, `lr` and `adamw_lr`, each with its own best value. A fused qkv that is not split "
    "gives queries and keys a fraction of the values' step: with momenta a tenth as large .39 each, against .89. "
    "Newton-Schulz in bfloat16 is as good as in fp32 for the loss, but two implementations agree in fp32 only. "
    "Singular values end between .7 and 1.2, not at 1.",
    proof="tests/test_muon.py",
)
class Muon(Spectral):
    """The state is the momentum `m` of a hidden matrix, and `m`, `v` and `step` of everything else.

    Args:
        params: groups, each with a key `hidden`: True for the matrices to be orthogonalised. `transposed`: True where
            those are kept as (inputs, outputs). `outputs`: of each matrix, where a parameter holds several.
        lr: of the hidden matrices.
        ns_dtype: of the iteration; auto is bfloat16 on CUDA and float32 elsewhere.
        split_qkv: orthogonalise the matrices that a parameter holds one by one; False: as one.
        scale: the size of a step, s above.
        adamw_lr: of the rest, with adamw_betas and adamw_eps; null: lr.
    """

    groups, mark = staticmethod(by_kind), "hidden"

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: Literal["auto", "bfloat16", "float32", "float64"] = "auto",
        split_qkv: bool = True,
        scale: Literal["spectral", "match_rms"] = "spectral",
        weight_decay: float = 0.1,
        adamw_lr: float | None = 6e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        check_common(lr, weight_decay)
        adamw_lr = lr if adamw_lr is None else adamw_lr
        check_at_least("adamw_lr", adamw_lr, 0)
        check_at_least("adamw_eps", adamw_eps, 0)
        check_betas(adamw_betas, "adamw_betas")
        if scale not in ("spectral", "match_rms"):
            raise ValueError(f"scale must be spectral or match_rms, not {scale!r}")
        self.scale, self.adamw_lr = scale, adamw_lr
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
            "betas": adamw_betas,
            "eps": adamw_eps,
        }
        super().__init__(params, defaults, ns_dtype, split_qkv)

    def marked(self, group: Group) -> list[Group]:
        """Return groups that say what is hidden; the rest has adamw_lr, unless a group that did has its own rate."""
        own = "lr" in group and self.mark in group
        return [each if each["hidden"] or own else {**each, "lr": self.adamw_lr} for each in super().marked(group)]

    def treat_rest(self, p: Tensor, group: Group) -> Treatment:
        return treatment(p, f"AdamW at {group['lr']:g}", numbers=2 * p.numel(), counts=1)

    def _step_rest(self, params: list[Any], group: Group) -> None:
        adamw([(p, p.grad, self.state[p]) for p in params], group)

    def _scale(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        """Return s."""
        if self.scale == "match_rms":
            return 0.2 * max(rows, columns) ** 0.5
        return max(1.0, columns / rows if group.get("transposed") else rows / columns) ** 0.5
