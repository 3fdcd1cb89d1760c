"""An optimizer plan is what a config asks for, checked before there is a model.

Only this folder needs something of ours from outside, the binding of keys. The files beside it import one another
relatively and nothing from here, so that they install as a package of their own, halfstep_optimizers, without it.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn, optim

from conventions.config_keys import CONFIGS
from conventions.keywords import bind, in_section
from conventions.sentence import nearest

from ..registry import ALLOW_TARGETS, OptimizerInfo, find

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


def overrides_of(word: str, *own: str) -> list[str]:
    """train.py's overrides for what a person calls an optimizer: a name of configs/optimizer, or a class path.

    own: folders of the user's, with configs like ours.
    """
    files = [path for folder in (str(CONFIGS), *own) for path in Path(folder, "optimizer").glob("*.yaml")]
    names = sorted({path.stem for path in files} - {"external"})
    if word in names:
        return [f"optimizer={word}"]
    if "." not in word:
        raise ValueError(f"there is no optimizer {word!r}: {nearest(word, names)}; a class is package.module.Class")
    known = any(word.startswith(f"{prefix}.") for prefix in ALLOW_TARGETS)
    trusted = [*ALLOW_TARGETS, *([] if known else [word.partition(".")[0]])]
    info = find("external", word, trusted)
    given = ["optimizer=external", f"optimizer._target_={word}"]
    rate = _default_rate(info.constructor)
    given += [f"optimizer.lr={rate}"] if rate else []
    return [*given, *([] if known else [f"allow_targets=[{','.join(trusted)}]"])]


def _default_rate(constructor: Any) -> float | None:
    """The rate that a class itself starts from: what its range is laid round."""
    parameter = inspect.signature(constructor).parameters.get("lr")
    rate = parameter.default if parameter else None
    return float(rate) if isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate > 0 else None


def defaults_of(constructor: Any) -> dict[str, Any]:
    """The defaults in a constructor's own signature: the config of an external class need not name what is searched."""
    parameters = inspect.signature(constructor).parameters.items()
    kinds = (bool, int, float, str, list, tuple)
    found = {key: each.default for key, each in parameters if isinstance(each.default, kinds)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
