"""An optimizer plan is what a config asks for, checked before there is a model.

Only this folder needs something of ours from outside, the binding of keys. The files beside it import one another
relatively and nothing from here, so that they install as a package of their own, halfstep_optimizers, without it.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn, optim

from conventions.config_keys import CONFIGS
from conventions.keywords import bind, in_section
from conventions.sentence import nearest

from ..external import External
from ..external.assembly import SECTIONS
from ..registry import ALLOW_TARGETS, OptimizerInfo, find
from ..units import Unit, units
from ..wrapped import CHANGES

EVERYONES = ("decay_embeddings", *CHANGES)  # keys that OptimizerInfo.build takes, whatever the optimizer


@dataclass(frozen=True)
class OptimizerPlan:
    """An entry of the registry and the keywords that a config gives it."""

    info: OptimizerInfo
    keywords: dict[str, Any]

    def build(self, model: nn.Module) -> optim.Optimizer:
        """Build the optimizer over the model's parameters; a ValueError names the key that is wrong."""
        with in_section("optimizer", self.keywords):
            return self.info.build(model, **self.keywords)

    def knowing(self, targets: int) -> "OptimizerPlan":
        """Return the plan of a run whose training data have so many targets: some external classes ask for it."""
        return replace(self, info=replace(self.info, targets=targets)) if isinstance(self.info, External) else self

    def facts(self) -> dict[str, Any]:
        """Return what a tryout of an external class showed, as the manifest's `external`; {}: it is registered here."""
        manner = self.info.manner if isinstance(self.info, External) else None
        if manner is None:
            return {}
        assert isinstance(self.info, External)
        schedule = {"heeds_schedule": manner.heeds_schedule, "own_schedule": manner.own_schedule or None}
        return {"external": {"handed": self.info.handed(**self.keywords), **schedule}}

    def tryout(self, device: str) -> optim.Optimizer | None:
        """Return an external class after two steps on a small model, or None: it is one of ours.

        Raises ValueError as `check_optimizer` does.
        """
        return self.info.stepped(device, **self.keywords) if isinstance(self.info, External) else None

    def notes(self, schedule: str) -> list[str]:
        """Say what a person should know of an external class before it trains.

        schedule: the kind of the run's.
        """
        facts = self.facts().get("external", {})
        name = getattr(self.info.constructor, "__name__", self.info.name)
        notes = [f"{name} is handed {', '.join(facts['handed'])}"] if facts.get("handed") else []
        if facts.get("heeds_schedule") is False:
            notes += [f"{name} follows no schedule: a change of its rate changed nothing in a tryout; none is logged"]
        elif facts.get("own_schedule") and schedule != "constant":
            notes += [f"{name} schedules itself ({facts['own_schedule']}): give schedule=constant, or two multiply"]
        return notes

    def units(self, optimizer: optim.Optimizer, model: nn.Module, tokens: int) -> list[Unit]:
        """Return the units that ranks may share out, for a batch of so many tokens."""
        return units(self.info, optimizer, model, tokens)


def check_optimizer(
    section: Mapping[str, Any], allow_targets: Sequence[str], device: str = "cpu", steps: int = 1000
) -> OptimizerPlan:
    """Check a config's `optimizer` section; building the optimizer for one layer on `device` finds bad keywords.

    An external class is stepped on a small model, which finds how it wants to be called.

    Args:
        steps: updates of the run, for a class that asks for them.

    Raises:
        ValueError: a sentence that names the key, and the remedy.
    """
    info = find(section["name"], section.get("_target_"), allow_targets)
    everyones = {key: section[key] for key in EVERYONES if key in section}
    everyones = bind(info.build, everyones, "optimizer", ["model"])
    own = {key: value for key, value in section.items() if key not in EVERYONES}
    if isinstance(info, External):
        info, keywords = replace(info, steps=steps), _of_external(info, own)
        with in_section("optimizer", keywords):
            info = info.tried(device, **everyones, **keywords)
        return OptimizerPlan(info, {**keywords, **everyones})
    plan = OptimizerPlan(info, {**bind(info.constructor, own, "optimizer", ["params"], EVERYONES), **everyones})
    plan.build(nn.Linear(2, 2, device=device))
    return plan


def _of_external(entry: External, section: Mapping[str, Any]) -> dict[str, Any]:
    """Bind the keywords of an external class, and of the classes in the sections inside its own."""
    request, key = entry.request, entry.key
    own = {name: value for name, value in section.items() if name not in (*SECTIONS, "_target_", "name")}
    wrapped = request.asked.get("base")
    if wrapped in own:
        raise ValueError(f"{key}.{wrapped} takes a class: give {key}.base._target_={own[wrapped]}")
    filled = [name for kind, name in request.asked.items() if kind in ("steps", "data") and name not in own]
    keywords = bind(entry.constructor, own, key, [*request.aside, *filled], EVERYONES if key == "optimizer" else ())
    for name in SECTIONS:
        inner = section.get(name)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            raise ValueError(f"{key}.{name} holds keys, as in {key}.{name}._target_=torch.optim.AdamW")
        keywords[name] = dict(inner)
        if "_target_" in inner:
            other = External.of(inner["_target_"], entry.allow_targets, f"{key}.{name}")
            keywords[name] = {"_target_": inner["_target_"], **_of_external(other, inner)}
    return keywords


def overrides_of(word: str, *own: str) -> list[str]:
    """Return train.py's overrides for what a person calls an optimizer: a name of configs/optimizer, or a class path.

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
    overrides = ["optimizer=external", f"optimizer._target_={word}"]
    rate = _default_rate(info.constructor)
    overrides += [f"optimizer.lr={rate}"] if rate else []
    return [*overrides, *([] if known else [f"allow_targets=[{','.join(trusted)}]"])]


def _default_rate(constructor: Any) -> float | None:
    """Return the rate that a class itself starts from: what its range is laid round."""
    parameter = inspect.signature(constructor).parameters.get("lr")
    rate = parameter.default if parameter else None
    return float(rate) if isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate > 0 else None


def defaults_of(constructor: Any) -> dict[str, Any]:
    """Return the defaults of a constructor's signature: an external class's config need not name what is searched."""
    parameters = inspect.signature(constructor).parameters.items()
    kinds = (bool, int, float, str, list, tuple)
    defaults = {key: each.default for key, each in parameters if isinstance(each.default, kinds)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
