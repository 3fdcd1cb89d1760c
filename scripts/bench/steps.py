"""An optimizer's own step: ours, those of others, and fused AdamW's, each on its copy of one model.

Gradients, estimates of a curvature and passes are at hand, and the clock leaves them out; so it does with drawing
Hutchinson's probes. A turn is of whole periods of refreshes.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor

from harness.clock import Clock
from harness.recorder import state_bytes
from harness.rehearsal import Rehearsal, one_token_pass
from optimizers.base import state_dtype
from optimizers.curvature import Hutchinson
from optimizers.kernels import compile_kernels
from optimizers.param_groups import decayed, hidden_matrices
from scripts.bench.setting import Setting, optimizer_of, period_of

GRADIENTS = 3  # sets of them, in turn: the averages of one gradient alone would stand still
LEAD = 50_000_000  # cycles of a GPU, about 25 ms
LR = 1e-5  # of others: the weights are to stay where they are, more or less


class Stepping:
    """The turns of an optimizer, which repeats itself after `period` steps."""

    period: int
    optimizers: Sequence[torch.optim.Optimizer]
    step: Callable[[int], None]  # makes the step of that number

    def __init__(self, setting: dict[str, Any]) -> None:
        self.device, self.done = setting["device"], 0
        compile_kernels(setting["compile"])
        self.model = Setting(**setting).build()
        self.params = list(self.model.parameters())
        generator = Generator(self.device).manual_seed(0)
        self.pool = [[1e-3 * torch.randn(p.shape, generator=generator, device=p.device) for p in self.params]
                     for _ in range(GRADIENTS)]  # fmt: skip
        self.clock = Clock(self.device)

    def warm_up(self) -> float:
        self.turn(1, False)
        return self.turn(1, False)["seconds"]

    def facts(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.params)
        return {"period": self.period, "parameters": parameters,
                "state_bytes": sum(map(state_bytes, self.optimizers)) / parameters}  # fmt: skip

    def turn(self, updates: int, parts: bool) -> dict[str, Any]:
        """Measure seconds: the mean over a period of the medians of its steps; usual and slowest: of those medians."""
        first, steps = self.done, self.period * ceil(updates / self.period)
        self.clock.restore({})
        with (
            mock.patch.object(Hutchinson, "__call__", lambda _, objective: objective.hvp([])),
            mock.patch.object(Hutchinson, "with_gradient", lambda _, objective: objective.gradient_and_hvp([])),
        ):
            for n in range(first, first + steps):
                if self.device.startswith("cuda"):  # launches are hidden, as they are behind a backward pass
                    torch.cuda._sleep(LEAD)
                with self.clock.part(f"step {n}"):
                    self.step(n)
        self.done += steps
        took = self.clock.state()
        kinds = [median(took[f"step {n}"] for n in range(first + phase, self.done, self.period))
                 for phase in range(self.period)]  # fmt: skip
        return {"seconds": fmean(kinds), "usual": median(kinds), "slowest": max(kinds), "updates": steps}

    def load(self, number: int) -> None:
        """Set every `.grad`, in place: some optimizers write into it."""
        with self.clock.part("at hand"):
            for p, g in zip(self.params, self.pool[number % GRADIENTS], strict=True):
                if p.grad is None:
                    p.grad = torch.empty_like(p)
                p.grad.copy_(g)

    def estimate(self, number: int) -> list[Tensor]:
        with self.clock.part("at hand"):
            return [g.clone() for g in self.pool[(number + 1) % GRADIENTS]]


class Ours(Stepping):
    """A registered optimizer, with keywords other than its YAML's."""

    def __init__(self, optimizer: str, way: dict[str, Any], **setting: Any) -> None:
        super().__init__(setting)
        self.plan = optimizer_of(optimizer, way, self.device)
        self.optimizers, self.period = [self.plan.build(self.model)], period_of(self.plan.keywords)
        self.hooked = any(module._forward_hooks for module in self.model.modules())
        self.rehearsal = Rehearsal(self.params, self.load, self.estimate)

    def facts(self) -> dict[str, Any]:
        """Add `least`: bytes that elementwise work moves in a mean step, and FLOPs of its products by precision."""
        announced = self.plan.info.treatments(self.optimizers[0], self.model, tokens=0) or {}
        flops: dict[str, float] = {}
        for name, one in announced.items():
            own = str(state_dtype(self.model.get_parameter(name))).removeprefix("torch.")
            for precision, count in ((one.precision, one.precision_flops), (own, one.flops - one.precision_flops)):
                flops |= {precision: flops.get(precision, 0) + count} if count else {}
        least = {"moved": sum(one.moved_bytes for one in announced.values()), "flops": flops}
        chosen = {key: value for key, value in self.plan.keywords.items() if isinstance(value, str | int)}
        return {**super().facts(), "least": least if announced else None, "keywords": chosen}

    def load(self, number: int) -> None:
        with self.clock.part("at hand"):
            if self.hooked:
                one_token_pass(self.model)
        super().load(number)

    def step(self, number: int) -> None:
        self.rehearsal.step = number
        self.optimizers[0].step(self.rehearsal)  # type: ignore[arg-type]


class Theirs(Stepping):
    """An implementation of somebody else's.

    Args:
        reference: an entry of `references` in configs/bench.yaml, or `unit`.
        unit: the entry that steps on what a class for hidden matrices leaves.
        optimizer, way: ours, by whose keywords theirs are chosen.
        checkout: the folder that holds `file`.
    """

    def __init__(
        self, reference: dict[str, Any], unit: dict[str, Any], optimizer: str, way: dict[str, Any], checkout: str,
        **setting: Any,
    ) -> None:  # fmt: skip
        super().__init__(setting)
        keywords = optimizer_of(optimizer, way, self.device).keywords
        self.reference, self.period = reference, period_of(keywords)
        if (longest := max(max(p.shape) for p in self.params)) > reference.get("longest_side", longest):
            raise ValueError(f"it decomposes every side, and one is {longest:,} long")
        renamed = {theirs: keywords[ours] for ours, theirs in reference.get("renamed", {}).items()}
        hidden = hidden_matrices(self.model) if reference.get("hidden") else []
        rest = [p for p in self.params if id(p) not in set(map(id, hidden))]
        main, other = (getattr(module_of(one, checkout), one["class"]) for one in (reference, unit))
        self.main = main(hidden or decayed(rest), lr=LR, **renamed, **reference.get("fixed", {}))
        self.optimizers = [self.main, *([other(decayed(rest), lr=LR, **unit["fixed"])] if hidden else [])]

    def step(self, number: int) -> None:
        self.load(number)
        keywords, due = dict(self.reference.get("step", {})), number % self.period == 0
        if self.reference.get("hessian"):
            diagonal = dict(zip(self.params, self.estimate(number), strict=True)) if due else {}
            places = [p for group in self.main.param_groups for p in group["params"]]
            keywords["hessian"] = [diagonal[p] for p in places] if due else None
        if due and (method := self.reference.get("before_refresh")):
            getattr(self.main, method)()
        self.main.step(**keywords)
        for other in self.optimizers[1:]:
            other.step()


def module_of(reference: dict[str, Any], checkout: str) -> ModuleType:
    """Return an installed package's module; or a file of a checkout, in a package whose own __init__ is not run."""
    if "module" in reference:
        return importlib.import_module(reference["module"])
    path = Path(checkout) / reference["file"]
    package = sys.modules[f"checkout_{path.stem}"] = ModuleType(f"checkout_{path.stem}")
    package.__path__ = [str(path.parent)]
    return importlib.import_module(f"{package.__name__}.{path.stem}")
