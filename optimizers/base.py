"""An Objective shows a model to its optimizer; an Optimizer may offer more than `step`."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from .loop import Loop
from .param_groups import Group, by_decay
from .shapes import by_shape


class Objective(Protocol):
    """The mean loss of one global batch: the closure that torch's `step(closure)` calls, with further methods.

    The mean is over the targets that count, in nats, and with it goes what the model adds for its gradient alone.

    Every method enables grad itself, uses the run's autocast and returns detached tensors on the device;
    every pass it makes is timed and charged. Means are over all micro-batches and ranks.
    """

    params: list[Parameter]  # what is trained, in the model's order
    num_tokens: int  # of the global batch
    num_targets: Tensor  # those of them that count in the mean: a scalar on the device, so that nothing waits for it
    step: int  # updates made before this one

    def __call__(self) -> Tensor:
        """Zero, accumulate, reduce and clip into `.grad`; return the mean loss, a scalar."""
        ...

    def gradient_with_graph(self) -> Tensor:
        """Do what `__call__` does, but leave gradients in `.grad` that can be differentiated once more, on one rank.

        Each product that an optimizer takes from them is charged.
        """
        ...

    def loss(self) -> Tensor:
        """Return the mean loss without a gradient, a scalar: for line searches."""
        ...

    def sampled_grads(self) -> list[Tensor]:
        """Return gradients of the mean loss on labels drawn from softmax(logits), one per parameter; never clipped.

        A label is drawn in the place of each target that counts, and what the model adds to the loss is left out.
        """
        ...

    def hvp(self, v: Sequence[Tensor]) -> list[Tensor]:
        """Return H v, with H the Hessian of the mean loss and v one tensor per parameter; never clipped."""
        ...

    def gradient_and_hvp(self, v: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Do what `__call__` does and return H v too, for one gradient less than the two cost apart."""
        ...

    def narrow(self, share: float) -> "Objective":
        """Return the same objective on the first `share` of the global batch's sequences."""
        ...

    def generator(self, key: Hashable) -> Generator:
        """Return a fresh generator on the device that depends on (seed, step, key) alone."""
        ...

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors over the ranks, in place."""
        ...

    def join_(self, tensor: Tensor) -> None:
        """Add, in place, what other ranks found of the parameters that they step on; here their entries are 0.

        Where every rank steps on all parameters, nothing is added.
        """
        ...

    def charge(self, flops: int) -> None:
        """Count the optimizer's own matrix work on the parameters that it steps on; work that ranks repeat, once."""
        ...


class Optimizer(torch.optim.Optimizer):
    """This base class of the package's optimizers keeps all state in `state` and `param_groups`, none elsewhere.

    It takes what torch's classes take, parameters, named parameters or groups of either, or a model itself, whose
    roles then decide as in a run of the benchmark.

    Attributes:
        groups: makes the groups of a model.
        mark: a key that each of those groups has and that the optimizer needs; where a group lacks it, `by_shape`
            works it out.
        takes_shards: whether it steps on parameters that FSDP2 has sharded.
    """

    groups = staticmethod(by_decay)
    mark: ClassVar[str | None] = None
    takes_shards: ClassVar[bool] = False

    def __init__(self, params: nn.Module | Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(type(self).groups(params) if isinstance(params, nn.Module) else params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as torch's classes do, or several where its parameters want different treatments."""
        for group in self.marked(param_group):
            super().add_param_group(group)
            if not self.takes_shards and any(hasattr(p, "device_mesh") for p in self.param_groups[-1]["params"]):
                raise ValueError(
                    f"params: {type(self).__name__} needs whole parameters, and these are sharded: take "
                    "DistributedDataParallel, or Lion or Lamb"
                )
        self.arrange()

    def arrange(self) -> None:
        """Lay out what a class derives from the groups, in the constructor and whenever one comes later."""

    def marked(self, group: Group) -> list[Group]:
        """Return a group with its mark; worked out where it has none, and then perhaps in several."""
        return [group] if self.mark is None or self.mark in group else by_shape(group, type(self))

    def objective(self, closure: Any, loss_scale: float = 1.0) -> Objective:
        """Return a closure as an Objective, which counts the update where the loop has none.

        Args:
            closure: an Objective, which is returned as it is; an ordinary closure; None: the gradient is made already.
            loss_scale: what the loop multiplied its loss with.
        """
        if hasattr(closure, "charge"):
            return closure
        return cast(Objective, Loop(closure, self.param_groups[0], loss_scale))

    @property
    def updates(self) -> int:
        """Return the updates made so far in a loop without an Objective."""
        return self.param_groups[0].get("updates", 0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict as torch does, each tensor in the dtype that it was saved in.

        torch would cast it to the parameter's, and state is wider than a bfloat16 weight.
        """
        super().load_state_dict(state_dict)
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(indices, parameters, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                if not isinstance(value, Tensor):
                    continue
                if key.partition(".")[0] == "step":  # counted by the host: on a GPU every step would wait for it
                    self.state[p][key] = value.clone()
                elif value.dtype != self.state[p][key].dtype:
                    self.state[p][key] = value.to(self.state[p][key].device)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles take along: everything but hooks, and what a scheduler has put round `step`.

        torch's own takes state, groups and defaults alone, and a copy would lack its settings.
        """
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_optimizer_") and k != "step"}

    def eval_weights(self) -> AbstractContextManager[Any]:
        """Return a context inside which the parameters hold the weights to be evaluated (averages, say)."""
        return nullcontext()

    def together(self) -> list[list[Tensor]]:
        """Return the sets of parameters that only one and the same rank can update; the others stand alone.

        A rank may take all other parameters out of `param_groups` before a step. Their gradients and weights stay
        right, and what the step needs of their state comes by `objective.join_`.
        """
        return []

    def readings(self) -> dict[str, "Reading | float"]:
        """Return what is worth a curve, by short name; logged as optimizer/<name>."""
        return {}

    def metrics(self) -> dict[str, Tensor | float]:
        """Return the readings of this optimizer's own state as scalars."""
        return condense([self.readings()])


class Reading(NamedTuple):
    """Numbers of which one is made once those of all ranks are there.

    values: (n, ...), an entry for each parameter or factor.
    condense: makes a scalar of them; a function that pickle finds by its name.
    """

    values: Tensor
    condense: Callable[[Tensor], Tensor]


def condense(readings: Iterable[Mapping[str, Reading | float]]) -> dict[str, Tensor | float]:
    """Make one scalar of each name's readings, over all ranks; of plain numbers the first rank's counts."""
    found: dict[str, list[Any]] = defaultdict(list)
    for each in readings:
        for name, sample in each.items():
            found[name].append(sample)
    return {name: _condensed(parts) for name, parts in found.items()}


def _condensed(parts: list[Any]) -> Tensor | float:
    first = parts[0]
    return first.condense(torch.cat([part.values for part in parts])) if isinstance(first, Reading) else first


def median(values: Tensor) -> Tensor:
    return values.median()


def largest(values: Tensor) -> Tensor:
    return values.max()


def ratio(values: Tensor) -> Tensor:
    """Return the sum of the first column over that of the second; values: (n, 2)."""
    first, second = values.sum(0)
    return first / second


class _Switched(AbstractContextManager[None]):
    """Schedule-free optimizers keep two sets of weights and switch with `eval()` and `train()`.

    Before the first step the two are the same, and some of these classes fail. Switching there and back would round the
    weights: the trained ones return to the bit, so that no run depends on how often it is evaluated.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.trained: list[tuple[Parameter, Tensor]] = []

    def __enter__(self) -> None:
        if any(self.optimizer.state.values()):
            groups = self.optimizer.param_groups
            self.trained = [(p, p.detach().clone()) for group in groups for p in group["params"]]
            self.optimizer.eval()

    def __exit__(self, *_: object) -> None:
        if self.trained:
            self.optimizer.train()
            with torch.no_grad():
                for p, trained in self.trained:
                    p.copy_(trained)


def switches_weights(optimizer: Any) -> bool:
    """Say whether an optimizer, or its class, keeps two sets of weights and switches with `eval()` and `train()`."""
    return all(callable(getattr(optimizer, name, None)) for name in ("eval", "train"))


def eval_weights(optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any]:
    """Return the context to evaluate and save weights in; a nullcontext where they are those that are trained."""
    if hasattr(optimizer, "eval_weights"):
        return optimizer.eval_weights()
    return _Switched(optimizer) if switches_weights(optimizer) else nullcontext()


def metrics(optimizer: torch.optim.Optimizer, each: Callable[[Any], list[Any]] | None = None) -> dict[str, Any]:
    """Return the scalars that any optimizer offers for the log; most offer none.

    each: returns what all ranks give it, where they share the parameters out.
    """
    readings = getattr(optimizer, "readings", None)  # of ours, wrapped perhaps
    if callable(readings):
        own = readings()
        return condense(each({k: s._replace(values=s.values.cpu()) if isinstance(s, Reading) else s
                              for k, s in own.items()}) if each else [own])  # fmt: skip
    scalars = getattr(optimizer, "metrics", None)
    return scalars() if callable(scalars) else {}


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of a parameter's state: the wider of float32 and its own."""
    return torch.promote_types(parameter.dtype, torch.float32)
