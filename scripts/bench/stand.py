"""What bench_optimizers times: an optimizer on its own copy of a model, given gradients that are not on its bill."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, lcm
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from harness.clock import Clock
from harness.recorder import state_bytes
from harness.rehearsal import Rehearsal
from models import build_model
from optimizers import OptimizerInfo
from optimizers.curvature import Hutchinson
from optimizers.kernels import compile_kernels

GRADIENTS = 3  # sets of them, in turn: the averages of one gradient alone would stand still
LEAD = 50_000_000  # cycles of a GPU, about 25 ms
LEAST_STEPS = 10  # of a turn; a single step of the fast ones takes a few milliseconds


@dataclass(frozen=True)
class Shape:
    """Of the blocks of GPT-2; with a vocabulary of 0 there is nothing but them. tokens: of a pass, for hooks."""

    layers: int
    width: int
    vocabulary: int
    tokens: int


class Stand:
    """A model to be optimized, the gradients that it gets, and the clock that runs meanwhile."""

    def __init__(self, shape: Shape, device: str, pool: list[list[Tensor]] | None = None) -> None:
        self.shape, self.device = shape, device
        size = {"layers": shape.layers, "width": shape.width, "context": shape.tokens}
        # One head: the passes are for the hooks alone, and nothing is learned.
        gpt: Any = build_model("gpt2", 0, heads=1, vocabulary=shape.vocabulary or 1, **size).to(device)
        self.blocks = gpt.blocks
        self.model: nn.Module = gpt if shape.vocabulary else gpt.blocks
        self.model.device = torch.device(device)  # MKOR's authors ask the model
        self.params: list[Parameter] = list(self.model.parameters())
        self.pool = pool or [self._draw(seed) for seed in range(GRADIENTS)]
        self.clock = Clock(device)

    def _draw(self, seed: int) -> list[Tensor]:
        generator = Generator(self.device).manual_seed(seed)
        return [1e-3 * torch.randn(p.shape, generator=generator, device=p.device) for p in self.params]

    def gradients(self, step: int) -> list[Tensor]:
        return self.pool[step % len(self.pool)]

    def load(self, step: int) -> None:
        """Set every `.grad`, in place: some optimizers write into it."""
        for p, g in zip(self.params, self.gradients(step), strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(g)

    def lead(self) -> None:
        """Keep a GPU waiting, so that launches are hidden in what follows, as they are behind a backward pass."""
        if torch.device(self.device).type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda._sleep(LEAD)

    @torch.enable_grad()
    def run(self, step: int) -> None:
        """Forward and backward over random tokens, for hooks to see."""
        generator = Generator(self.device).manual_seed(step)
        x = torch.randn(1, self.shape.tokens, self.shape.width, generator=generator, device=self.device)
        for block in self.blocks:
            x = block(x)
        x.square().mean().backward()


def compared_passes(hooked: Stand, bare: Stand, step: int) -> None:
    """The pass that hooks see, and beside it one without any."""
    hooked.lead()
    with hooked.clock.part("bare pass"):
        bare.run(step)
    hooked.lead()
    with hooked.clock.part("hooked pass"):
        hooked.run(step)
    hooked.lead()  # of the step itself


@contextmanager
def given_hessian() -> Iterator[None]:
    """Hutchinson's estimates are given: neither the product with the Hessian nor drawing its probe is timed."""
    with (
        mock.patch.object(Hutchinson, "__call__", lambda self, objective: objective.hvp([])),
        mock.patch.object(Hutchinson, "with_gradient", lambda self, objective: (objective(), objective.hvp([]))),
    ):
        yield


class Turn(NamedTuple):
    """Whole periods of an optimizer's steps.

    first: the number of the first step.
    seconds: of each.
    hooks: seconds a step that its hooks add to the passes; None: it has none.
    """

    first: int
    seconds: list[float]
    hooks: float | None


@dataclass
class Contender:
    """An implementation of an optimizer at its stand.

    Attributes:
        advance: makes the step of that number; what it does inside `clock.part` is not on its bill.
        refreshes: whether the step of that number does more than a plain one.
        compiled: with the kernels of optimizers.kernels.
        period: steps after which all repeats.
        keeps: the optimizers whose state it has; empty where it is elsewhere.
    """

    name: str
    stand: Stand
    advance: Callable[[int], None]
    period: int
    refreshes: Callable[[int], bool]
    keeps: Sequence[torch.optim.Optimizer]
    compiled: bool = False
    done: int = 0

    def turn(self) -> Turn:
        first, steps = self.done, self.period * ceil(LEAST_STEPS / self.period)
        self.stand.clock.restore({})
        compile_kernels(self.compiled)
        with given_hessian():
            for n in range(first, first + steps):
                self.stand.lead()  # before the step's first mark: it is not on the bill
                with self.stand.clock.part(f"step {n}"):
                    self.advance(n)
        self.done += steps
        seconds = self.stand.clock.state()
        hooks = (seconds["hooked pass"] - seconds["bare pass"]) / steps if "hooked pass" in seconds else None
        return Turn(first, [seconds[f"step {n}"] for n in range(first, self.done)], hooks)

    def twin(self) -> "Contender":
        """The same optimizer with compiled kernels: weights and state serve both, for turns are of whole periods."""
        return replace(self, name=f"{self.name}, compiled", compiled=True)

    def state_bytes_per_parameter(self) -> float | None:
        if not self.keeps:
            return None
        return sum(map(state_bytes, self.keeps)) / sum(p.numel() for p in self.stand.params)


def periods(keywords: dict[str, Any]) -> list[int]:
    """Updates between refreshes: what the keywords every, every_factor, ... say."""
    return [value for key, value in keywords.items() if key.partition("_")[0] == "every"] or [1]


def ours(info: OptimizerInfo, keywords: dict[str, Any], stand: Stand, spare: Stand) -> Contender:
    """The registered optimizer, as train.py would build it; a step that charges more than the least refreshes.

    Args:
        spare: another stand, without hooks; a pass on it beside each of ours says what the hooks cost.
    """
    optimizer = info.build(stand.model, **keywords)
    layers = optimizer.activations.layers if hasattr(optimizer, "activations") else []

    def gradient(step: int) -> None:
        with stand.clock.part("given"):
            if any(layer.recording for layer in layers):
                compared_passes(stand, spare, step)
            stand.load(step)

    def estimate(step: int) -> list[Tensor]:
        objective.charge(1)  # a step that estimates a curvature refreshes
        with stand.clock.part("given"):
            return [g.clone() for g in stand.gradients(step + 1)]

    objective = Rehearsal(stand.params, gradient, estimate, stand.shape.tokens)

    def advance(n: int) -> None:
        objective.step = n
        optimizer.step(objective)  # type: ignore[arg-type]

    period = lcm(*periods(keywords))

    def refreshes(n: int) -> bool:
        of_a_period = [objective.charges.get(objective.step - i, 0) for i in range(period)]
        return objective.charges.get(objective.step - (objective.step - n) % period, 0) > min(of_a_period)

    return Contender("halfstep", stand, advance, period, refreshes, [optimizer])


def fused_adamw(stand: Stand) -> Contender:
    """What all are measured by."""
    optimizer = torch.optim.AdamW(stand.params, lr=1e-5, fused=True)

    def advance(n: int) -> None:
        with stand.clock.part("given"):
            stand.load(n)
        optimizer.step()

    return Contender("fused AdamW", stand, advance, 1, lambda n: False, [optimizer])
