"""AdaHessian: Adam with the Hessian's diagonal for the gradient (Yao et al., arXiv 2006.00719, algorithm 1).

    D = average over blocks of |z * (H z)|, z Rademacher       every k-th step
    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) D^2
    w <- w - lr wd w - lr m^ / (v^^(p/2) + eps)

m^ and v^ are bias-corrected, v^ by the number of estimates that went into it: the steps, where k = 1. The authors
average in three ways (not at all, over a matrix's rows, over 32 entries in a row): `block` says which.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .base import Optimizer, state_dtype
from .checks import check_at_least, check_betas, check_common
from .curvature import Hutchinson
from .kernels import Number, Row, add_quotient_, average_, average_square_, kernel, shrink_
from .loop import MISSING, Curvature, Loop
from .registry import register
from .treatment import Treatment, treatment


def rule(
    p: Tensor, grad: Tensor, m: Tensor, v: Tensor, estimate: Tensor | None,
    lr: Number, share1: Number, share2: Number, scale1: Number, scale2: Number, eps: Number, decay: Number,
    *, hessian_power: float, block: int | None,
) -> None:  # fmt: skip
    if estimate is not None:
        average_block_(v, estimate.to(v.dtype), share2, block)
    average_(m, grad.to(m.dtype), share1)
    denominator = (v * scale2).pow_(hessian_power / 2).add_(eps)
    add_quotient_(shrink_(p, lr * decay), m, denominator, -lr * scale1)


update = kernel(rule)
# Where a mean of a whole row goes into the loop over that row, Inductor of torch 2.13 fails with a KeyError on a CPU,
# unless m and v, once averaged, are read from where they were written.
update_by_rows = kernel(rule, realize_reads_threshold=1)


def average_block_(v: Tensor, d: Tensor, share: Number, block: int | None) -> None:
    """v <- (1 - share) v + share D^2, D the mean of |d| over `block` entries in a row, of matrices alone."""
    if d.ndim < 2 or block == 1:
        average_square_(v, d, share)
        return
    size = d.shape[-1] if whole_row(d, block) else block
    mean = d.abs().unflatten(-1, (-1, size)).mean(-1, keepdim=True)  # (rows, columns / size, 1)
    average_(v.unflatten(-1, (-1, size)), mean.square_(), share)


def whole_row(d: Tensor, block: int | None) -> bool:
    """Tell whether |d| is averaged over all of a row."""
    return d.ndim >= 2 and (block is None or d.shape[-1] % block != 0)


@register(
    "adahessian",
    summary="Adam on the Hessian's diagonal",
    paper="arXiv 2006.00719, algorithm 1",
    presets="`block=32` is the authors' code for translation, `block=1` (no averaging) what their code for images does "
    "with matrices, `block=null` (a whole row) the default of their instructions. Their translation runs do not clip "
    "the gradient: grad_clip=null.",
    pitfalls="A Hessian-vector product a step triples the step (`every` spreads it), needs the math kernel of "
    "attention and an eager model, and much memory; under bfloat16 it is rounded as all passes are. Rates are a "
    "hundred times Adam's, since v is a curvature: nothing carries over.",
    proof="tests/test_second_order.py",
)
class AdaHessian(Optimizer):
    """Each parameter has two state tensors of its shape, `m` and `v`, and two counts.

    Args:
        hessian_power: p, of the curvature in the denominator: 1 divides by it, 0 is gradient descent with momentum.
        block: entries of a matrix's row that share one curvature, their mean; 1: none do, null: the whole row. Vectors
            are never averaged, and a row that the block does not divide is averaged as a whole.
        every: updates between estimates of the curvature.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        hessian_power: float = 1.0,
        block: int | None = 32,
        every: int = 1,
        weight_decay: float = 0.0,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_at_least("eps", eps, 0)
        check_at_least("every", every, 1)
        if not 0 <= hessian_power <= 1:
            raise ValueError(f"hessian_power must be between 0 and 1, not {hessian_power}")
        if block is not None:
            check_at_least("block", block, 1)
        self.every = every
        self.block = block
        self.estimate = Hutchinson(rademacher=True)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "hessian_power": hessian_power, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        rule = "momentum over curvature" if p.ndim < 2 else "momentum over curvature, averaged in blocks of a row"
        moved = (3 + 2 / self.every) * p.numel()  # v is written, and an estimate read, in every k-th step
        return treatment(p, rule, numbers=2 * p.numel(), counts=1, moved=moved)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        objective = self.objective(closure)
        estimates: dict[Tensor, Tensor] = {}
        if objective.step % self.every or isinstance(objective, Loop):
            loss = objective()
            if isinstance(objective, Loop) and not any(self.state.values()):
                raise ValueError(f"{type(self).__name__} has no {MISSING}")
        else:
            loss, diagonal = self.estimate.with_gradient(objective)
            estimates = dict(zip(objective.params, diagonal, strict=True))
        for group in self.param_groups:
            alike: dict[tuple[float, float, bool], list[Row]] = defaultdict(list)  # by steps, estimates, whole_row
            for p in group["params"]:
                # Without any estimate yet there is nothing to divide by: such a parameter waits for its first.
                if p.grad is not None and (p in estimates or self.state[p]):
                    state = self._state(p)
                    state["step"] += 1
                    state["estimates"] += p in estimates
                    counts = (state["step"].item(), int(state["estimates"]))
                    row = (p, p.grad, state["m"], state["v"], estimates.get(p))
                    alike[*counts, whole_row(p, self.block)].append(row)
            beta1, beta2 = group["betas"]
            for (steps, seen, by_rows), rows in alike.items():
                kernel_of_these = update_by_rows if by_rows else update
                scales = (1 / (1 - beta1**steps), 1 / (1 - beta2**seen))
                kernel_of_these(
                    rows, group["lr"], 1 - beta1, 1 - beta2, *scales, group["eps"], group["weight_decay"],
                    hessian_power=group["hessian_power"], block=self.block,
                )  # fmt: skip
        return loss

    @property
    def curvature_due(self) -> bool:
        """Tell a loop without an Objective whether to call `update_curvature` before the next `step`."""
        return self.updates % self.every == 0

    @torch.no_grad()
    def update_curvature(self, loss: Tensor | Iterable[Tensor]) -> None:
        """Estimate the Hessian's diagonal in a loop without an Objective: when `curvature_due`, before `step`.

        The gradient in `.grad` stays as it is, and so does the loss's graph.

        Args:
            loss: of the batch, a scalar with its graph, from a model that is not compiled and whose attention has a
                second derivative; or an iterator, whose losses of micro-batches add up to it.

        Raises:
            ValueError: it has none.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        diagonal = self.estimate(Curvature(params, loss))  # type: ignore[arg-type]
        estimates = dict(zip(params, diagonal, strict=True))
        for group in self.param_groups:
            for p in group["params"]:
                state = self._state(p)
                average_block_(state["v"], estimates[p].to(state["v"].dtype), 1 - group["betas"][1], self.block)
                state["estimates"] += 1

    def _state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
            # Counts are read without waiting. torch leaves `step` on the CPU after a resume, and no other tensor.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["estimates"] = 0
        return state
