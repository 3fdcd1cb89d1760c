"""Three changes to any optimizer, of any package: a hyperball, cautious decay, an average of the weights.

None of them knows the optimizer's rule: they see the weights before and after its step, which the first two have made
without weight decay.

    hyperball = r (K. Wen et al., "Hyperball Optimization", 2025), on each hidden matrix W, U = W before - W after:

        W <- |W| (W - r |W| U / |U|) / |W - r |W| U / |U||        Frobenius norms

    A step is the share r of the matrix's norm, whatever the optimizer's own rate, and the norm stays; so there is no
    weight decay there. r follows the schedule as a rate does. A fused qkv is three matrices.

    cautious_decay (L. Chen et al., arXiv 2510.12402, algorithm 1), w of a group with weight decay, u = w - w after:

        w <- w - u - lr wd 1[u w >= 0] w

    average = b, for evaluation: after each update t, from a_1 = w_1 on,

        a <- b a + (1 - b) w

The rest of the parameters, and the optimizer's own state, are as without. The first two keep a copy of the weights that
they change while a step lasts.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .base import eval_weights, state_dtype, switches_weights
from .kernels import Number, add_, average_, kernel
from .param_groups import Group, group_of, matrices_apart, no_weight_decay, trainable
from .pieces import pieces
from .roles import matrix_kinds
from .treatment import Treatment

CHANGES = ("hyperball", "cautious_decay", "average")  # the keywords of `wrap`
AVERAGE = "average"  # its name in a parameter's state
NOTHING = 1e-30  # a norm is never divided by less


class Wrapped(torch.optim.Optimizer):
    """An optimizer with these changes; whatever else it offers is offered here too.

    Wrap it before a scheduler is made: a hyperball puts the hidden matrices into groups of their own.

    Args:
        wrapped: the optimizer, over the parameters of the model.
        model: whose roles tell the hidden matrices; for a hyperball alone.
        hyperball: r, the rate of the hidden matrices; None: the optimizer's own step.
        cautious_decay: decay only where the update and the weight do not differ in sign.
        average: b; None: the weights that are trained are those to be evaluated.

    Raises:
        ValueError: a change makes no sense here; the sentence begins with its keyword.
    """

    _step_supports_amp_scaling = False  # a GradScaler would leave its scale here, where the optimizer does not look

    def __init__(
        self,
        wrapped: torch.optim.Optimizer,
        model: nn.Module | None = None,
        hyperball: float | None = None,
        cautious_decay: bool = False,
        average: float | None = None,
    ) -> None:
        self.wrapped = wrapped  # and not the base class's constructor: parameters and state are the optimizer's
        self.cautious_decay, self.average = cautious_decay, average
        name = type(wrapped).__name__
        if getattr(wrapped, "switches", switches_weights(wrapped)):
            key = "hyperball" if hyperball is not None else "cautious_decay" if cautious_decay else "average"
            raise ValueError(f"{key} is not for {name}, which keeps an average of its weights by itself: leave it out")
        if average is not None and not 0 < average < 1:
            raise ValueError(f"average must be above 0 and below 1, not {average:g}; null keeps none")
        if cautious_decay:
            if not any("weight_decay" in group for group in self.param_groups):
                raise no_weight_decay(type(wrapped), "cautious_decay")
            if not any(group.get("weight_decay") for group in self.param_groups):
                raise ValueError(
                    "cautious_decay is a kind of weight decay, and weight_decay is 0: give one, or leave it out"
                )
            if not all("lr" in group for group in self.param_groups):
                raise ValueError(f"cautious_decay needs the rate, and the groups of {name} have none: leave it out")
        if hyperball is not None:
            _onto_hyperball(wrapped, model, hyperball)

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        return self.wrapped.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.wrapped.state

    @property
    def defaults(self) -> Group:  # type: ignore[override]
        return self.wrapped.defaults

    @property
    def packages(self) -> set[str]:
        """Return the packages whose classes may be in its state."""
        return getattr(self.wrapped, "packages", {type(self.wrapped).__module__.partition(".")[0]})

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def add_param_group(self, param_group: Group) -> None:
        self.wrapped.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.wrapped.zero_grad(set_to_none)

    def step(self, closure: Any = None, **keywords: Any) -> Any:
        """Make an update of the optimizer, and change it."""
        balls = [group for group in self.param_groups if group.get("hyperball")]
        cautious = [g for g in self.param_groups if self.cautious_decay and g.get("weight_decay")]
        decays = [group["weight_decay"] for group in cautious]
        before = {p: p.detach().clone() for group in (*balls, *cautious) for p in group["params"]}
        averages = self._take_averages()
        for group in cautious:
            group["weight_decay"] = 0.0
        try:
            loss = self.wrapped.step(*(() if closure is None else (closure,)), **keywords)
        finally:
            for group, decay in zip(cautious, decays, strict=True):
                group["weight_decay"] = decay
            for p, average in averages.items():
                self._own.setdefault(p, {})[AVERAGE] = average
        with torch.no_grad():
            stepped = self._stepped()
            for group in balls:
                for p in group["params"]:
                    for piece in pieces(p, group, split=True):
                        step_on_sphere_(piece.of(p), piece.of(before[p]), group["lr"])
            for group in cautious:
                rows = [(p, before[p]) for p in group["params"] if p in stepped]
                decay_cautiously(rows, group["lr"] * group["weight_decay"])
            if self.average is not None:
                self._update_averages(stepped)
        return loss

    def eval_weights(self) -> AbstractContextManager[Any]:
        """Return a context inside which the parameters hold the averages, if there are any."""
        return eval_weights(self.wrapped) if self.average is None else self._at_averages()

    def state_dict(self) -> dict[str, Any]:
        return self.wrapped.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict as the optimizer does; the averages in the dtype that they were saved in."""
        saved = state_dict.get("state", {})
        averages = {i: kept[AVERAGE] for i, kept in saved.items() if AVERAGE in kept}
        if averages:  # the optimizer would take a state of nothing else for a begun one of its own
            others = {i: {k: v for k, v in kept.items() if k != AVERAGE} for i, kept in saved.items()}
            state_dict = {**state_dict, "state": {i: kept for i, kept in others.items() if kept}}
        self.wrapped.load_state_dict(state_dict)
        if averages:
            indices = [i for group in state_dict["param_groups"] for i in group["params"]]
            for i, p in zip(indices, self._parameters, strict=True):
                if i in averages:
                    self._own.setdefault(p, {})[AVERAGE] = averages[i].to(p.device, copy=True)

    def changed(self, p: Tensor, plain: Treatment) -> Treatment:
        """Return the treatment of a parameter, which has `plain` without the changes."""
        group = group_of(self.param_groups, p)
        rule, size = plain.rule, p.numel() * state_dtype(p).itemsize
        if group.get("hyperball"):
            rule += f", on a hyperball at {group['lr']:g}"
        elif self.cautious_decay and group.get("weight_decay"):
            rule += ", cautious decay"
        if self.average is None:
            return plain._replace(rule=rule)
        return plain._replace(
            rule=f"{rule}, averaged", state_bytes=plain.state_bytes + size, moved_bytes=plain.moved_bytes + 2 * size
        )

    @property
    def _own(self) -> Any:
        """Return the mapping that holds the averages by parameter, beside the optimizer's own state."""
        return getattr(self.wrapped, "kept_beside", self.wrapped.state)

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _take_averages(self) -> dict[Tensor, Tensor]:
        """Take the averages out of the state: many a class begins its own where there is none at all."""
        found = {p: self._own[p].pop(AVERAGE) for p in self._parameters if AVERAGE in self._own.get(p, {})}
        for p in [p for p in found if not self._own[p]]:
            del self._own[p]
        return found

    def _stepped(self) -> set[Tensor]:
        """Return the parameters that have a gradient; all if none has one.

        Some classes step in the backward pass itself, and free each gradient there.
        """
        return {p for p in self._parameters if p.grad is not None} or set(self._parameters)

    def _update_averages(self, stepped: set[Tensor]) -> None:
        rows = []
        for p in (p for p in self._parameters if p in stepped):
            kept = self._own.setdefault(p, {})
            if AVERAGE in kept:
                rows.append((p, kept[AVERAGE]))
            else:
                kept[AVERAGE] = p.detach().to(state_dtype(p), copy=True)
        update_average(rows, 1 - self.average)  # type: ignore[operator]

    @contextmanager
    def _at_averages(self) -> Iterator[None]:
        trained = [(p, p.detach().clone()) for p in self._parameters if AVERAGE in self._own.get(p, {})]
        with torch.no_grad():
            for p, _ in trained:
                p.copy_(self._own[p][AVERAGE])
        try:
            yield
        finally:
            with torch.no_grad():
                for p, weight in trained:
                    p.copy_(weight)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "step"}  # which a scheduler may have put

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def wrap(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    hyperball: float | None = None,
    cautious_decay: bool = False,
    average: float | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer with these changes; itself where there is none."""
    if hyperball is None and not cautious_decay and average is None:
        return optimizer
    return Wrapped(optimizer, model, hyperball, cautious_decay, average)


def step_on_sphere_(w: Tensor, before: Tensor, share: float) -> None:
    """Put a matrix, which has made its step from `before`, where a step of that share of its norm leads to.

    Its norm stays that of `before`, and without a step it stays itself.
    """
    step, radius = before - w, torch.linalg.vector_norm(before)
    aside = before - step.mul_(share * radius / torch.linalg.vector_norm(step).clamp_min(NOTHING))
    w.copy_(aside.mul_(radius / torch.linalg.vector_norm(aside)))


@kernel
def decay_cautiously(p: Tensor, before: Tensor, share: Number) -> None:
    """w <- w - share before, where the step from `before` to w and `before` do not differ in sign."""
    agree = (before - p).sign_() * before.sign() >= 0
    add_(p, before * agree, -share)


@kernel
def update_average(p: Tensor, average: Tensor, share: Number) -> None:
    average_(average, p.to(average.dtype), share)


def _onto_hyperball(optimizer: torch.optim.Optimizer, model: nn.Module | None, rate: float) -> None:
    """Put the hidden matrices into groups of their own, marked `hyperball`, with this rate and without weight decay.

    Raises:
        ValueError: there is none, or the norm of one cannot be kept.
    """
    if rate <= 0:
        raise ValueError(f"hyperball must be above 0, not {rate:g}; null turns it off")
    if model is None:
        raise ValueError("hyperball needs the model, which tells the hidden matrices: give it as `model`")
    kind_of = matrix_kinds(model)
    if "hidden" not in kind_of.values():
        raise ValueError(f"hyperball is for hidden matrices, and {type(model).__name__} has none: leave it out")
    marks = {"lr": rate, "initial_lr": rate, "hyperball": True}
    for groups in getattr(optimizer, "group_lists", [optimizer.param_groups]):
        matrices_apart(groups, model, marks)
    name_of = {p: name for name, p in trainable(model)}
    for group in optimizer.param_groups:
        for p in group["params"] if group.get("hyperball") else ():
            _check_matrix(name_of[p], p, group)


def _check_matrix(name: str, p: Tensor, group: Group) -> None:
    if hasattr(p, "device_mesh"):
        raise ValueError(f"hyperball needs whole parameters, and {name} is sharded: take DistributedDataParallel")
    if p.element_size() < 4:
        raise ValueError(f"hyperball needs {name} in float32: {p.dtype} would round its small steps away")
    if not p.is_meta and not all(piece.of(p).any() for piece in pieces(p, group, split=True)):
        raise ValueError(f"hyperball keeps the norm of each hidden matrix, and {name} is 0: begin with another weight")
