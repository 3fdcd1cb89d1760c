"""Hidden matrices step along their momentum with all singular values pushed to about 1: the core of Muon and of Scion.

    m <- b m + (1 - b) g
    u = (1 - b) g + b m  with Nesterov, else m
    w <- (1 - lr wd) w - lr s NewtonSchulz(u)

That is steepest descent in the spectral norm. What s is, and what the other parameters do, a class says.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import Optimizer, state_dtype
from .checks import check_at_least, check_betas
from .newton_schulz import newton_schulz, newton_schulz_flops
from .param_groups import Group, group_of
from .pieces import pieces
from .treatment import Treatment, treatment


class Hidden(NamedTuple):
    """A hidden matrix: its weight and direction (rows, columns), and its state."""

    weight: Tensor
    direction: Tensor
    state: MutableMapping[str, Any]


NS_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Spectral(Optimizer):
    """The state of a hidden matrix is its momentum `m`; groups have keys `momentum`, `ns_steps` and `hidden`.

    Args:
        ns_dtype: of the iteration; auto is bfloat16 on CUDA and float32 elsewhere.
        split_qkv: take the matrices that a parameter holds one by one; False: as one.

    Attributes:
        ns_polish: steps of a cubic after those of the iteration; a class may take some.
    """

    ns_polish = 0

    def __init__(
        self, params: nn.Module | Iterable[Any], defaults: dict[str, Any], ns_dtype: str, split_qkv: bool
    ) -> None:
        check_betas([defaults["momentum"]], "momentum")
        check_at_least("ns_steps", defaults["ns_steps"], 1)
        if ns_dtype not in ("auto", *NS_DTYPES):
            raise ValueError(f"ns_dtype must be auto, {', '.join(NS_DTYPES)}, not {ns_dtype!r}")
        self.ns_dtype, self.split_qkv = ns_dtype, split_qkv
        super().__init__(params, defaults)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        group = group_of(self.param_groups, p)
        if not group["hidden"]:
            return self.treat_rest(p, group)
        dtype = self._dtype(p)
        matrices = pieces(p, group, self.split_qkv)
        flops = sum(self._newton_schulz_flops(each.shape, group, dtype) for each in matrices)
        precision = str(dtype).removeprefix("torch.")
        rule = "momentum, orthogonalised" + (f" as {len(matrices)} matrices" if len(matrices) > 1 else "")
        return treatment(p, rule, numbers=p.numel(), flops=flops, precision=precision, precision_flops=flops)

    def treat_rest(self, p: Tensor, group: Group) -> Treatment:
        """Return the treatment of what is no hidden matrix."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        objective = self.objective(closure)
        loss, charge = objective(), objective.charge
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                charge(self._step_hidden(params, group))
            else:
                self._step_rest(params, group)
        return loss

    def _step_rest(self, params: list[Any], group: Group) -> None:
        """Update a group of what is no hidden matrix."""
        raise NotImplementedError

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
        orthogonal = newton_schulz(batch.to(dtype), group["ns_steps"], self.ns_polish)
        size = group["lr"] * self._scale(rows, columns, group)
        for each, matrix in zip(alike, orthogonal.reshape(-1, rows, columns), strict=True):
            update = self._weighed(matrix.to(state_dtype(each.weight)), each.state, group)
            each.weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)
        return len(alike) * self._newton_schulz_flops((rows, columns), group, dtype)

    def _newton_schulz_flops(self, shape: Sequence[int], group: dict[str, Any], dtype: torch.dtype) -> int:
        return newton_schulz_flops(shape, group["ns_steps"], dtype, self.ns_polish)

    def _weighed(self, update: Tensor, state: MutableMapping[str, Any], group: dict[str, Any]) -> Tensor:
        """Return an orthogonal update (rows, columns) as a class weighs its entries; Muon and Scion do not."""
        return update

    def _scale(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        """Return s of a matrix (rows, columns), whose outputs are the columns where its group is `transposed`."""
        raise NotImplementedError

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        m = self._momentum(p)
        g = p.grad.to(m.dtype)  # type: ignore[union-attr]
        m.lerp_(g, 1 - group["momentum"])
        return g.lerp(m, group["momentum"]) if group.get("nesterov") else m

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "m" not in state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
        return state["m"]

    def _dtype(self, x: Tensor) -> torch.dtype:
        if self.ns_dtype != "auto":
            return NS_DTYPES[self.ns_dtype]
        # Few CPUs multiply bfloat16 faster than float32 (twice, with AVX-512 BF16), most of them far slower.
        return torch.bfloat16 if x.is_cuda else state_dtype(x)
