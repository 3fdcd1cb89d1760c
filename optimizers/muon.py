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

from collections import defaultdict
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .backends import adamw
from .base import Optimizer, state_dtype
from .checks import check_at_least, check_betas, check_common
from .newton_schulz import newton_schulz, newton_schulz_flops
from .param_groups import Group, by_kind
from .pieces import pieces
from .registry import register
from .treatment import Treatment, treatment


class Hidden(NamedTuple):
    """A hidden matrix: its weight and direction (rows, columns), and its state."""

    weight: Tensor
    direction: Tensor
    state: MutableMapping[str, Any]


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


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
class Muon(Optimizer):
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
        check_at_least("ns_steps", ns_steps, 1)
        check_betas([momentum], "momentum")
        check_betas(adamw_betas, "adamw_betas")
        if ns_dtype not in ("auto", *DTYPES):
            raise ValueError(f"ns_dtype must be auto, {', '.join(DTYPES)}, not {ns_dtype!r}")
        if scale not in ("spectral", "match_rms"):
            raise ValueError(f"scale must be spectral or match_rms, not {scale!r}")
        self.ns_dtype, self.split_qkv, self.scale = ns_dtype, split_qkv, scale
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
            "betas": adamw_betas,
            "eps": adamw_eps,
        }
        self.adamw_lr = adamw_lr
        super().__init__(params, defaults)

    def marked(self, group: Group) -> list[Group]:
        """Return groups that say what is hidden; the rest has adamw_lr, unless a group that did has its own rate."""
        own = "lr" in group and self.mark in group
        return [each if each["hidden"] or own else {**each, "lr": self.adamw_lr} for each in super().marked(group)]

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        group = next(group for group in self.param_groups if any(p is q for q in group["params"]))
        if not group["hidden"]:
            return treatment(p, f"AdamW at {group['lr']:g}", numbers=2 * p.numel(), counts=1)
        dtype = self._dtype(p)
        matrices = pieces(p, group, self.split_qkv)
        flops = sum(newton_schulz_flops(each.shape, group["ns_steps"], dtype) for each in matrices)
        precision = str(dtype).removeprefix("torch.")
        rule = "momentum, orthogonalised" + (f" as {len(matrices)} matrices" if len(matrices) > 1 else "")
        return treatment(p, rule, numbers=p.numel(), flops=flops, precision=precision, precision_flops=flops)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss, charge = objective(), objective.charge
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                charge(self._step_hidden(params, group))
            else:
                adamw([(p, p.grad, self.state[p]) for p in params], group)
        return loss

    def _step_hidden(self, params: list[Tensor], group: dict[str, Any]) -> int:
        """Update the hidden matrices; return the FLOPs of it.

        Those of one shape are one batch on CUDA; a CPU takes them one by one, as its caches would have it.
        """
        by_shape = defaultdict(list)
        for i, p in enumerate(params):
            by_shape[p.shape if p.is_cuda else i].append(p)
        flops = 0
        for alike in by_shape.values():
            directions = [self._direction(p, group) for p in alike]
            batches: dict[Any, list[Hidden]] = defaultdict(list)  # of one shape
            for p, direction in zip(alike, directions, strict=True):
                for piece in pieces(p, group, self.split_qkv):
                    hidden = Hidden(piece.of(p), piece.of(direction), piece.state(self.state[p]))
                    batches[piece.shape if p.is_cuda else len(batches)].append(hidden)
            flops += sum(self._step_alike(batch, group) for batch in batches.values())
        return flops

    def _step_alike(self, alike: list[Hidden], group: dict[str, Any]) -> int:
        """Update weights (rows, columns) along directions of their shape; return the FLOPs of it."""
        rows, columns = alike[0].weight.shape
        directions = [each.direction for each in alike]
        batch = torch.stack(directions) if len(alike) > 1 else directions[0]  # (count, rows, columns), or one
        dtype = self._dtype(batch)
        orthogonal = newton_schulz(batch.to(dtype), group["ns_steps"])
        size = group["lr"] * self._scale(rows, columns, group)
        for each, matrix in zip(alike, orthogonal.reshape(-1, rows, columns), strict=True):
            update = self._weighed(matrix.to(state_dtype(each.weight)), each.state, group)
            each.weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)
        return len(alike) * newton_schulz_flops((rows, columns), group["ns_steps"], dtype)

    def _weighed(self, update: Tensor, state: MutableMapping[str, Any], group: dict[str, Any]) -> Tensor:
        """Return an orthogonal update (rows, columns) as a variant of Muon weighs its entries; Muon itself does not."""
        return update

    def _scale(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        """Return s."""
        if self.scale == "match_rms":
            return 0.2 * max(rows, columns) ** 0.5
        return max(1.0, columns / rows if group.get("transposed") else rows / columns) ** 0.5

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if "m" not in state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        g = p.grad.to(state["m"].dtype)  # type: ignore[union-attr]
        m = state["m"].lerp_(g, 1 - group["momentum"])
        return g.lerp(m, group["momentum"]) if group["nesterov"] else m

    def _dtype(self, x: Tensor) -> torch.dtype:
        if self.ns_dtype != "auto":
            return DTYPES[self.ns_dtype]
        # Few CPUs multiply bfloat16 faster than float32 (twice, with AVX-512 BF16), most of them far slower.
        return torch.bfloat16 if x.is_cuda else state_dtype(x)
