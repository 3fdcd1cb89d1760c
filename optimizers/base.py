"""An Objective shows a model to its optimizer; an Optimizer may offer more than `step`."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Parameter


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

    def charge(self, flops: int) -> None:
        """Count the optimizer's own matrix work, once for all ranks, although each of them repeats it."""
        ...


class Optimizer(torch.optim.Optimizer):
    """This base class of the package's optimizers keeps all state in `state` and `param_groups`, none elsewhere."""

    def eval_weights(self) -> AbstractContextManager[Any]:
        """Return a context inside which the parameters hold the weights to be evaluated (averages, say)."""
        return nullcontext()

    def metrics(self) -> dict[str, Tensor | float]:
        """Return scalars worth a curve, by short name; logged as optimizer/<name>."""
        return {}


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


def metrics(optimizer: torch.optim.Optimizer) -> dict[str, Tensor | float]:
    """Return the scalars that any optimizer offers for the log; most offer none."""
    own = getattr(optimizer, "metrics", None)
    return own() if callable(own) else {}


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of a parameter's state: the wider of float32 and its own."""
    return torch.promote_types(parameter.dtype, torch.float32)
