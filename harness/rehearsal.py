"""An optimizer's steps outside any run: what they cost, and whether they run at all, without a pass of a model."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from harness.device import seed_everything
from harness.flops import count, counter
from harness.micro_batch import MicroBatch, count_targets


class Rehearsal:
    """An Objective whose answers are at hand: it makes no pass, but for the one that hooks on a model need.

    Args:
        params: what the optimizer steps on.
        gradient: leaves the gradient of a step, whose number it takes, in every `.grad`; the default draws random ones.
        estimate: what `sampled_grads`, `hvp` and the second half of `gradient_and_hvp` answer in a step of that number,
            a tensor per parameter; by default sampled gradients are random, and H v is v.
        num_tokens: of a batch.

    Attributes:
        step: set it before each step, or let `steps` do so.
        passes: how often each was asked for so far, in whole batches; `joint_hvp` is a product in the gradient's pass.
        charges: FLOPs that the optimizer charged, by the number of the step.
        scale: of random gradients.
    """

    def __init__(
        self,
        params: Sequence[Parameter],
        gradient: Callable[[int], Any] | None = None,
        estimate: Callable[[int], list[Tensor]] | None = None,
        num_tokens: int = 1,
    ) -> None:
        self.params = list(params)
        self.num_tokens = num_tokens
        self.step, self.scale = 0, 1.0
        self.passes = {"gradient": 0.0, "sampled_grads": 0.0, "hvp": 0.0, "joint_hvp": 0.0}
        self.charges: Counter[int] = Counter()
        self._gradient = gradient or self._draw_gradient
        self._estimate = estimate
        self._share = 1.0
        self._loss = torch.ones((), device=self.params[0].device)
        self.num_targets = self._loss * num_tokens

    @classmethod
    def on(cls, model: nn.Module) -> "Rehearsal":
        """Make a rehearsal on a model's parameters, once the optimizer is built.

        Hooks on the model's modules would see nothing of a random gradient: where there are any, the gradient is that
        of a pass over one token.
        """
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        params = [p for p in model.parameters() if p.requires_grad]
        return cls(params, (lambda step: one_token_pass(model)) if hooked else None)

    @property
    def charged(self) -> int:
        """Return the FLOPs that the optimizer charged in all steps."""
        return self.charges.total()

    def steps(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Make so many steps of an optimizer, which goes on from the step that the rehearsal has come to."""
        if callable(train := getattr(optimizer, "train", None)):  # a schedule-free class refuses to step without
            train()
        for _ in range(number):
            optimizer.step(self)  # type: ignore[arg-type]
            self.step += 1

    def __call__(self) -> Tensor:
        self.passes["gradient"] += self._share
        self._gradient(self.step)
        return self.loss()

    @torch.enable_grad()
    def gradient_with_graph(self) -> Tensor:
        """Leave the gradient of a quadratic form, which can be differentiated once more."""
        loss = self()
        for p in self.params:
            p.grad = None if p.grad is None else (p * p.grad).clone()
        return loss

    def backward(self) -> None:
        """Some classes ask the loss for it."""

    def loss(self) -> Tensor:
        return self._loss

    def sampled_grads(self) -> list[Tensor]:
        self.passes["sampled_grads"] += self._share
        return self._estimate(self.step) if self._estimate else self._random()

    def hvp(self, v: Sequence[Tensor]) -> list[Tensor]:
        self.passes["hvp"] += self._share
        return self._product(v)

    def gradient_and_hvp(self, v: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        self.passes["joint_hvp"] += self._share
        return self(), self._product(v)

    def narrow(self, share: float) -> "Rehearsal":
        part = copy.copy(self)  # whose passes and charges are counted with the whole's
        part._share = self._share * share
        return part

    def generator(self, key: Hashable) -> Generator:
        return Generator(self.params[0].device).manual_seed(0)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are: one rank's mean is its own."""

    def join_(self, tensor: Tensor) -> None:
        """Leave the tensor as it is: there are no other ranks."""

    def charge(self, flops: int) -> None:
        self.charges[self.step] += flops

    def _product(self, v: Sequence[Tensor]) -> list[Tensor]:
        return self._estimate(self.step) if self._estimate else [x.clone() for x in v]

    def _draw_gradient(self, step: int) -> None:
        for p, g in zip(self.params, self._random(), strict=True):
            p.grad = g.mul_(self.scale)

    def _random(self) -> list[Tensor]:
        return [torch.randn(p.shape, device=p.device, dtype=p.dtype) for p in self.params]


@torch.enable_grad()
def one_token_pass(model: nn.Module) -> None:
    """Leave the gradients of one token's loss in every `.grad`: the shortest pass that runs every layer."""
    model.zero_grad()
    token = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
    MicroBatch(token, token, count_targets(token)).share(model(token, token)).whole.backward()


def rehearse(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, steps: int) -> tuple[int, int]:
    """Count the FLOPs of an optimizer's first `steps` steps on a copy of the model: (counted, charged by itself).

    What its hooks do during the model's passes counts, the passes themselves do not.
    """
    seed_everything(0)  # the work of some classes depends on their gradients, and a run that goes on counts again
    twin = copy.deepcopy(model)
    optimizer = build(twin)
    objective = Rehearsal.on(twin)
    hooked = objective._gradient != objective._draw_gradient
    with counter() as counted:
        objective.steps(optimizer, steps)
    passes = round(objective.passes["gradient"]) * count(lambda: one_token_pass(copy.deepcopy(model))) if hooked else 0
    return counted.get_total_flops() - passes, objective.charged


def uncharged_per_step(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> float | None:
    """Count the FLOPs per step of a class that never charges, over one period of its refreshes; None where that fails.

    The period is the largest whole number among the keywords that speak of one. The first period is left out: methods
    that precondition compute their first basis differently.
    """
    try:
        probe = build(copy.deepcopy(model))
        period = max(periods(probe))
        counted, charged = rehearse(build, model, 2 * period)
        if charged:
            return 0.0
        return (counted - rehearse(build, model, period)[0]) / period
    except Exception:  # an external class may fail in any way on random gradients; then nothing is claimed of it
        return None


def passes_per_step(build: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> dict[str, float]:
    """Count what a step asks the Objective for, in whole batches: means over the second of two periods.

    A period is a whole number of each that stands among the optimizer's attributes.
    """
    optimizer = build(model)
    periods = [v for k, v in _attributes(optimizer).items() if k.startswith("every") and isinstance(v, int)]
    steps = math.lcm(*periods)
    objective = Rehearsal.on(model)
    objective.steps(optimizer, steps)
    before = dict(objective.passes)
    objective.steps(optimizer, steps)
    return {kind: (number - before[kind]) / steps for kind, number in objective.passes.items()}


def periods(optimizer: torch.optim.Optimizer) -> list[int]:
    """List the whole numbers up to 100 among an optimizer's keywords that speak of a period; 1 is one of them."""
    words = ("freq", "every", "interval", "update_step", "period")
    return [1] + [
        value
        for key, value in [*_attributes(optimizer).items(), *optimizer.param_groups[0].items()]
        if any(word in key for word in words) and isinstance(value, int) and 1 < value <= 100
    ]


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's own attributes, also where it is wrapped in changes to its step."""
    return vars(getattr(optimizer, "wrapped", optimizer))
