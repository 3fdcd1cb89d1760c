"""An adapter steps optimizers of other packages on an Objective, each in the manner that its class wants."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base import eval_weights
from .manner import Manner


class Member(NamedTuple):
    """An optimizer of another package, and the manner in which it is stepped."""

    optimizer: torch.optim.Optimizer
    manner: Manner


class Adapter(torch.optim.Optimizer):
    """The optimizers of a run as one: groups, state and checkpoints are those of its parts.

    Several parts share the parameters between them. They step on one gradient, which is computed once.

    Attributes:
        parts: the optimizers, as their packages ship them.
        packages: that they come from, with those of the optimizers inside them.
        group_lists: the lists that hold the groups of all of these.
        switches: whether one of the parts keeps two sets of weights.
        kept_beside: what is kept of parameters beside the parts' own state, by parameter.
    """

    def __init__(self, parts: Sequence[Member]) -> None:
        self._parts = list(parts)  # and not the base class's constructor: parameters and state are the parts'
        self.kept_beside: dict[Tensor, dict[str, Any]] = {}

    @property
    def parts(self) -> list[torch.optim.Optimizer]:
        return [part.optimizer for part in self._parts]

    @property
    def packages(self) -> set[str]:
        return {type(each).__module__.partition(".")[0] for part in self.parts for each in (part, *inside(part))}

    @property
    def group_lists(self) -> list[list[dict[str, Any]]]:
        lists = [each.param_groups for part in self.parts for each in (part, *inside(part))]
        return list({id(groups): groups for groups in lists}.values())

    @property
    def switches(self) -> bool:
        return any(part.manner.switches for part in self._parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in _rated_groups(part)]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:  # type: ignore[override]
        """Return each parameter's state by the class of the optimizer that keeps it: wrappers keep some beside it."""
        found: dict[Tensor, dict[str, Any]] = {}
        for part in self.parts:
            for each in (part, *inside(part)):
                for p, kept in each.state.items():
                    found.setdefault(p, {})[type(each).__name__] = kept
        for p, kept in self.kept_beside.items():
            found.setdefault(p, {}).update(kept)
        return found

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return {key: value for part in reversed(self.parts) for key, value in part.defaults.items()}

    def state_dict(self) -> dict[str, Any]:
        saved: dict[str, Any] = {"parts": [part.state_dict() for part in self.parts]}
        places = {p: i for i, p in enumerate(self._parameters)}
        return (
            {**saved, "kept_beside": {places[p]: kept for p, kept in self.kept_beside.items()}}
            if self.kept_beside
            else saved
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        parameters = self._parameters
        self.kept_beside = {parameters[i]: dict(kept) for i, kept in state_dict.get("kept_beside", {}).items()}

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self._parameters:
            p.grad = None if set_to_none or p.grad is None else torch.zeros_like(p.grad)

    def step(self, objective: Any) -> Any:  # type: ignore[override]
        """Make an update of every part; returns the loss."""
        graph = any(part.manner.graph for part in self._parts)
        closure = objective.gradient_with_graph if graph else objective
        if len(self._parts) == 1 and self._parts[0].manner.takes_closure:
            loss = _step(self._parts[0], closure)
        else:
            loss = closure()
            for part in self._parts:
                _step(part, lambda: loss)
        if graph:  # a gradient that holds its graph holds all activations of the pass
            for p in self._parameters:
                p.grad = None if p.grad is None else p.grad.detach()
        return loss

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """Return a context inside which the parameters hold the weights to be evaluated."""
        with ExitStack() as stack:
            for part in self._parts:
                if part.manner.switches:
                    stack.enter_context(eval_weights(part.optimizer))
            yield

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def inside(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    """Yield the optimizers that an optimizer holds in its attributes, and those inside them."""
    for each in _held(optimizer):
        yield each
        yield from inside(each)


def _held(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    for value in vars(optimizer).values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Member):
                yield each.optimizer
            elif isinstance(each, torch.optim.Optimizer):
                yield each


def _rated_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the groups whose rate counts: those of the optimizers inside, where these have all the parameters.

    A wrapper may begin with the very groups of what it wraps, and be left with old ones after load_state_dict.
    """
    own = optimizer.param_groups
    inner = [group for each in _held(optimizer) for group in _rated_groups(each)]
    rated = {p for group in inner if "lr" in group for p in group["params"]}
    return inner if rated == {p for group in own for p in group["params"]} else own


def _step(part: Member, closure: Any) -> Any:
    optimizer, manner = part
    if not manner.takes_closure:
        optimizer.step()
        return None
    if manner.pair:
        return optimizer.step(lambda: (None, closure()))  # type: ignore[arg-type, return-value]
    if manner.gradient_exists:
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is None):
            p.grad = torch.zeros_like(p)
    if manner.gradient_before:
        loss = closure()
        optimizer.step(closure)
        return loss
    return optimizer.step(closure)
