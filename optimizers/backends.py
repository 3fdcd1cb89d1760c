"""Holds the backends: first-order updates of a whole group along a preconditioned gradient, for K-FAC and MKOR.

State is kept in the wider of float32 and the parameter's dtype, beside whatever else stands in it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .activations import Activations
from .adam import adam_, averages
from .base import Objective, Optimizer, state_dtype
from .kernels import Number, Row, kernel
from .lamb import update_lamb
from .param_groups import Group

Update = tuple[Tensor, Tensor, dict[str, Any]]  # a parameter, its gradient or what stands for it, its state
BY_MOMENTS = ("adamw", "lamb")  # backends with the state `m`, `v` and `step`


def sgd(updates: Iterable[Update], group: Group) -> None:
    """Step as torch.optim.SGD does: u <- g + wd w,  b <- momentum b + u,  w <- w - lr b."""
    for p, g, state in updates:
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"]:
            if "b" not in state:
                state["b"] = torch.zeros_like(p, dtype=state_dtype(p))
            g = state["b"].mul_(group["momentum"]).add_(g)
        p.add_(g, alpha=-group["lr"])


def adamw(updates: Iterable[Update], group: Group) -> None:
    """Step as AdamW does (arXiv 1711.05101): w <- w - lr wd w - lr m^ / (sqrt(v^) + eps)."""
    for steps, rows in _rows(updates).items():
        update_adamw(rows, *_numbers(steps, group))


@kernel
def update_adamw(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, *numbers: Number) -> None:
    adam_(p, grad.to(m.dtype), m, v, *numbers)


def lamb(updates: Iterable[Update], group: Group) -> None:
    """Step as optimizers/lamb.py does, bias-corrected; clipping is the run's own."""
    for steps, rows in _rows(updates).items():
        update_lamb(rows, 1.0, *_numbers(steps, group))


Backend = Callable[[Iterable[Update], Group], None]
BACKENDS: dict[str, Backend] = {"adamw": adamw, "lamb": lamb, "sgd": sgd}


class Preconditioner(Optimizer):
    """K-FAC and MKOR step by a backend: along preconditioned gradients where there are any, else along plain ones."""

    backend: Backend
    activations: Activations

    @torch.no_grad()
    def step(self, closure: Any = None, loss_scale: float = 1.0) -> Any:
        """Make an update.

        Args:
            closure: an Objective, an ordinary closure, or None where the gradient is in `.grad`.
            loss_scale: what such a loop multiplied its loss with; its gradients must be divided by it already. Hooks
                see gradients as they are: scaler.step(optimizer, loss_scale=scaler.get_scale()).
        """
        loss, directions = self._gradient(self.objective(closure, loss_scale))
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            along = [directions[p] if p in directions else p.grad.to(state_dtype(p)) for p in used]
            self.backend([(p, g, self.state[p]) for p, g in zip(used, along, strict=True)], group)
        return loss

    def together(self) -> list[list[Tensor]]:
        return self.activations.together()

    def _gradient(self, objective: Objective) -> tuple[Any, dict[Tensor, Tensor]]:
        """Return the loss, and the directions of those parameters that are preconditioned."""
        raise NotImplementedError


def _rows(updates: Iterable[Update]) -> dict[float, list[Row]]:
    """Count a step of each parameter; return the rows for a kernel by the number of steps, all alike as a rule."""
    by_steps: dict[float, list[Row]] = defaultdict(list)
    for p, g, state in updates:
        if "m" not in state:
            state["m"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["v"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU: read without waiting for the device
        state["step"] += 1
        by_steps[state["step"].item()].append((p, g, state["m"], state["v"]))
    return by_steps


def _numbers(steps: float, group: Group) -> tuple[float, ...]:
    """Return lr, share1 to scale2, eps and wd of an update."""
    return (group["lr"], *averages(group["betas"], steps), group["eps"], group["weight_decay"])
