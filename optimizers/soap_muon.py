"""SOAP-Muon: Muon along the direction of SOAP (Vyas et al., "Improving SOAP using iterative whitening and Muon", 2025).

    G' = QL^T G QR                                QL, QR, L and R as in SOAP, of the shorter side alone
    M <- b1 M + (1 - b1) G',   V <- b2 V + (1 - b2) G'^2
    u = M + (1 - b1) G' with Nesterov, else M
    O = NewtonSchulz(u / (sqrt(V) + eps)),   O <- sign(O) sqrt|O|,   O <- O sqrt(min(rows, columns)) / |O|
    w <- w - lr wd w - lr s sqrt(1 - b2^t) / (1 - b1^t) QL O QR^T       s as in Muon

on hidden matrices; the rest gets AdamW at its own rate, as in Muon. SOAP takes the conditioning out of one side, and
Newton-Schulz out of the other. The square root of each entry is a milder sign, taken in the basis; its authors saw runs
go unstable without it, and no harm from it where they did not.

As in the authors' code (nikhilvyas/SOAP_MUON, nanogpt_optimizer.py, and the sweeps of soap-muon-nanogpt/configs) the
first gradient only starts L and R, and two steps of a cubic follow the quintic ones and bring the singular values to 1.
Their weight decay, which is 0 in these runs, comes after the step; here it comes before, as in Muon. Their eps is
1e-15; with that a direction without a gradient, as LayerNorm leaves one, would be rounding alone over rounding alone,
in float64 too.

Variants:
- `one_sided=false` rotates both sides, which costs more, and their report says that it does better;
- `root=false`: without the square root. NewtonSchulz(QL X QR^T) = QL NewtonSchulz(X) QR^T, so this is Newton-Schulz of
  SOAP's own direction. With `nesterov=false one_sided=false scale=match_rms`, at five times the rate, this is what the
  authors' olmo_optimimzer.py does with hidden matrices: a step has the root mean square lr. All other parameters have
  there SOAP's step, scaled to that size, in place of AdamW's;
- `squares=momentum`: V <- b2 V + (1 - b2) u^2 with u = b1 M + (1 - b1) G'. With root=false, correct_bias=false,
  one_sided=false and every=1 it is what modded-nanogpt's track 3 took up in its records from 2,750 updates on; those
  fix the size of the weights, too, and iterate with other coefficients, which end at 1 as well.
"""

from collections import defaultdict
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import Reading, state_dtype
from .bases import Bases, State
from .checks import check_at_least, check_betas
from .muon import Muon
from .pieces import Matrix
from .registry import register
from .spectral import Hidden
from .treatment import Treatment, treatment


@register(
    "soap_muon",
    summary="Muon along SOAP's direction",
    paper="Vyas et al. 2025",
    presets="The defaults are those of the authors' runs of modded-nanogpt, with the refreshes of those of OLMo (every "
    "10 updates; of modded-nanogpt's every 40 at a rate of .02, or every one at .03). `root` and `squares` make it the "
    "authors' variant for OLMo, or track 3's; `scale` and `split_qkv` are Muon's. The recipe "
    "`vyas2025/soap_muon` has the rates that the authors chose for a refresh in every update.",
    pitfalls="Two rates to tune, as Muon has. Where a gradient is nothing but rounding, as in the direction that "
    "LayerNorm takes out, the root of V and ten steps of Newton-Schulz make a step of it: in float32 such directions "
    "move, and rounding says where to.",
    proof="tests/test_soap_muon.py",
)
class SoapMuon(Muon):
    """The state of an (a, b) hidden matrix is `step`; `m` and `v` in the basis; and as in SOAP the factor of each side
    that is rotated, its basis and eigenvalues, all by piece. Everything else has `m`, `v` and `step`.

    Args:
        params: as Muon has them.
        momentum: b1.
        beta2: b2, of V.
        shampoo_beta: decay of L and R; null: beta2.
        squares: what V averages the squares of.
        root: take the root of each entry of O.
        eps: added to sqrt(V); the authors' is 1e-15, track 3's 1e-8.
        every: updates between refreshes of the basis, and the other keywords of SOAP's bases.
        ns_steps: of Muon's quintic, and ns_polish of a cubic after them.
        correct_bias: the factor sqrt(1 - b2^t) / (1 - b1^t); False: 1.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.98,
        shampoo_beta: float | None = None,
        nesterov: bool = True,
        squares: Literal["gradient", "momentum"] = "gradient",
        root: bool = True,
        eps: float = 1e-8,
        every: int = 10,
        max_side: int = 10000,
        one_sided: bool = True,
        split_qkv: bool = True,
        ns_steps: int = 10,
        ns_polish: int = 2,
        ns_dtype: Literal["auto", "bfloat16", "float32", "float64"] = "auto",
        scale: Literal["spectral", "match_rms"] = "spectral",
        correct_bias: bool = True,
        stagger: bool = False,
        qr: Literal["householder", "cholesky"] = "householder",
        gram: Literal["strips", "triton"] = "strips",
        weight_decay: float = 0.0,
        adamw_lr: float | None = 4e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        shampoo_beta = beta2 if shampoo_beta is None else shampoo_beta
        check_betas([beta2], "beta2")
        check_betas([shampoo_beta], "shampoo_beta")
        check_at_least("eps", eps, 0)
        check_at_least("ns_polish", ns_polish, 0)
        if squares not in ("gradient", "momentum"):
            raise ValueError(f"squares must be gradient or momentum, not {squares!r}")
        self.bases = Bases(
            every=every, max_side=max_side, split_qkv=split_qkv, block=None, one_sided=one_sided, stagger=stagger,
            projection_dtype="float32", qr=qr, gram=gram,
        )  # fmt: skip
        self.beta2, self.shampoo_beta, self.eps, self.ns_polish = beta2, shampoo_beta, eps, ns_polish
        self.squares, self.root, self.correct_bias = squares, root, correct_bias
        super().__init__(
            params, lr, momentum, nesterov, ns_steps, ns_dtype, split_qkv, scale, weight_decay, adamw_lr, adamw_betas,
            adamw_eps,
        )  # fmt: skip

    def arrange(self) -> None:
        self.matrices = self.bases.lay_out([group for group in self.param_groups if group["hidden"]])

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        plain = super().treat(p, tokens)
        if p not in self.matrices:
            return plain
        own, moments = self.matrices[p], 2 * p.numel()
        numbers = moments + sum(self.bases.numbers(each) for each in own)
        flops = plain.flops + sum(self.bases.mean_flops(each) for each in own)
        rule = f"{plain.rule}, {self.bases.rule(own[0])}"
        return treatment(p, rule, numbers, len(own), flops, 2 * moments, plain.precision, plain.precision_flops)

    def _step_hidden(self, params: list[Tensor], group: dict[str, Any]) -> int:
        """Update the hidden matrices; return the FLOPs of it. As in Muon those of one shape are a batch on CUDA."""
        batches: dict[Any, list[tuple[Tensor, Matrix]]] = defaultdict(list)
        for p in params:
            for matrix in self.matrices[p]:
                batches[matrix.piece.shape if p.is_cuda else len(batches)].append((p, matrix))
        return sum(self._step_batch(batch, group) for batch in batches.values()) + self.bases.mend()

    def _step_batch(self, batch: list[tuple[Tensor, Matrix]], group: dict[str, Any]) -> int:
        flops, alike, taken = 0, [], []
        for p, matrix in batch:
            g, state = matrix.piece.of(p.grad).to(state_dtype(p)), matrix.piece.state(self.state[p])  # type: ignore[arg-type]
            if "step" in state:
                alike.append(Hidden(matrix.piece.of(p), self._preconditioned(g, state, matrix, group), state))
                taken.append(matrix)
            else:
                flops += self._begin(g, state, matrix)
        flops += self._step_alike(alike, group) if alike else 0
        for each, matrix in zip(alike, taken, strict=True):
            t = each.state["step"].item()
            flops += self.bases.step_flops(matrix.piece.shape, matrix.sides) + self.bases.refresh(each.state, matrix, t)
        return flops

    def _begin(self, g: Tensor, state: State, matrix: Matrix) -> int:
        state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["m"], state["v"] = torch.zeros_like(g), torch.zeros_like(g)
        return self.bases.begin(g, state, matrix.sides, self.shampoo_beta)

    def _preconditioned(self, g: Tensor, state: State, matrix: Matrix, group: dict[str, Any]) -> Tensor:
        """Return u / (sqrt(V) + eps), in the basis."""
        beta1 = group["momentum"]
        state["step"] += 1
        rotated = self.bases.enter(g, state, matrix.sides, self.shampoo_beta)
        m = state["m"].lerp_(rotated, 1 - beta1)
        ahead = m
        if group["nesterov"]:
            ahead = m.add(rotated, alpha=1 - beta1) if self.squares == "gradient" else rotated.lerp(m, beta1)
        squared = (rotated if self.squares == "gradient" else ahead).square()
        return ahead / state["v"].lerp_(squared, 1 - self.beta2).sqrt().add_(self.eps)

    def _weighed(self, update: Tensor, state: MutableMapping[str, Any], group: dict[str, Any]) -> Tensor:
        if self.root:
            update = update.sign() * update.abs().sqrt_()
        length = min(update.shape) ** 0.5
        if self.correct_bias:
            t = state["step"].item()
            length *= (1 - self.beta2**t) ** 0.5 / (1 - group["momentum"] ** t)
        tiny = torch.finfo(update.dtype).tiny
        return self.bases.leave(update * (length / torch.linalg.vector_norm(update).clamp(min=tiny)), state)

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        return self.bases.readings(self.state.values())
