"""NorMuon: Muon whose update has rows of one size (Z. Li et al., "NorMuon", arXiv 2510.05491, algorithm 1).

    O = NewtonSchulz(u), u as in Muon
    v <- b2 v + (1 - b2) mean_columns(O^2)       a number for each row, that is, each output
    U = O / (sqrt(v) + eps)
    w <- w - lr wd w - lr s U |O| / |U|          Frobenius norms, s as in Muon

Orthogonalised momenta have rows of quite different lengths; here each output learns at about the same rate. The paper
and its authors' code take rows, whatever the shape; modded-nanogpt's track 3 takes columns where they outnumber the
rows, as in an MLP's second matrix.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .checks import check_at_least, check_betas
from .muon import Muon
from .param_groups import group_of
from .registry import register
from .treatment import Treatment, treatment


@register(
    "normuon",
    summary="Muon, each row of its update scaled to one size",
    paper="Li et al. 2025",
    presets="`scale` and `split_qkv` as Muon has them.",
    pitfalls="Tuned at 124M its rate is above Muon's: .035 against .025 in modded-nanogpt's track 3, where both need "
    "3,250 updates.",
    proof="tests/test_muon.py",
)
class NorMuon(Muon):
    """The state is Muon's, and `v`, a number per output, of each hidden matrix.

    Args:
        params: as Muon has them.
        beta2: what `v` keeps of itself.
        eps: added to sqrt(v).
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: Literal["auto", "bfloat16", "float32", "float64"] = "auto",
        split_qkv: bool = True,
        scale: Literal["spectral", "match_rms"] = "spectral",
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        adamw_lr: float | None = 6e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        check_betas([beta2], "beta2")
        check_at_least("eps", eps, 0)
        self.beta2, self.eps = beta2, eps
        super().__init__(
            params, lr, momentum, nesterov, ns_steps, ns_dtype, split_qkv, scale, weight_decay, adamw_lr, adamw_betas,
            adamw_eps,
        )  # fmt: skip

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        plain = super().treat(p, tokens)
        group = group_of(self.param_groups, p)
        if not group["hidden"]:
            return plain
        outputs = p.shape[1] if group.get("transposed") else p.shape[0]
        return treatment(
            p, f"{plain.rule}, rows of one size", numbers=p.numel() + outputs, flops=plain.flops,
            precision=plain.precision, precision_flops=plain.precision_flops,
        )  # fmt: skip

    def _weighed(self, update: Tensor, state: MutableMapping[str, Any], group: dict[str, Any]) -> Tensor:
        squares = update.square().mean(-2 if group.get("transposed") else -1, keepdim=True)
        if "v" not in state:
            state["v"] = torch.zeros_like(squares)
        v = state["v"].lerp_(squares, 1 - self.beta2)
        even = update / v.sqrt().add_(self.eps)
        return even * (torch.linalg.vector_norm(update) / torch.linalg.vector_norm(even).add_(self.eps))
