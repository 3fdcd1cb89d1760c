"""An optimizer plan is what a config asks for, checked before there is a model.

This is the only file here that needs something of ours from outside, the binding of keys. Nothing here imports it, so
the folder can be taken home without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn, optim

from conventions.keywords import bind, in_section
from optimizers.registry import OptimizerInfo, find

EVERYONES = ("decay_embeddings",)  # keys that OptimizerInfo.build takes, whatever the optimizer


@dataclass(frozen=True)
class OptimizerPlan:
    """An entry of the registry and the keywords that a config gives it."""

    info: OptimizerInfo
    keywords: dict[str, Any]

    def build(self, model: nn.Module) -> optim.Optimizer:
        """Build the optimizer over the model's parameters; a ValueError names the key that is wrong."""
        with in_section("optimizer", self.keywords):
            return self.info.build(model, **self.keywords)

    def state_bytes(self, optimizer: optim.Optimizer, model: nn.Module, tokens: int) -> int:
        """Return the bytes of state to come for a batch of so many tokens, two tensors each for an external class."""
        announced = self.info.treatments(optimizer, model, tokens)
        if announced is None:
            return 2 * sum(p.numel() * max(4, p.element_size()) for p in model.parameters())
        return sum(each.state_bytes for each in announced.values())


def check_optimizer(section: Mapping[str, Any], allow_targets: Sequence[str], device: str = "cpu") -> OptimizerPlan:
    """Check a config's `optimizer` section; building the optimizer for one layer on `device` finds bad keywords.

    Raises:
        ValueError: a sentence that names the key, and the remedy.
    """
    info = find(section["name"], section.get("_target_"), allow_targets)
    everyones = {key: section[key] for key in EVERYONES if key in section}
    own = {key: value for key, value in section.items() if key not in EVERYONES}
    keywords = bind(info.constructor, own, "optimizer", ["params"])
    plan = OptimizerPlan(info, {**keywords, **bind(info.build, everyones, "optimizer", ["model"])})
    plan.build(nn.Linear(2, 2, device=device))
    return plan
