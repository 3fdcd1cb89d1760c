"""The registry: data that names each optimizer, builds it, and drives the tests that run over all of them."""

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from .base import switches_weights
from .checks import check_betas, check_common
from .param_groups import Group, by_decay, check_cover, spare_embeddings, trainable
from .treatment import Treatment
from .wrapped import Wrapped, wrap

ALLOW_TARGETS = ("torch.optim", "pytorch_optimizer")
REGISTRY: dict[str, "OptimizerInfo"] = {}


@dataclass(frozen=True)
class OptimizerInfo:
    """An entry of the registry holds everything that is known of an optimizer before it is built."""

    name: str
    constructor: Callable[..., torch.optim.Optimizer]  # takes what `groups` returns, then keywords: the schema
    summary: str
    paper: str  # where the algorithm comes from
    groups: Callable[[nn.Module], list[Group] | nn.Module] = by_decay  # the model itself, for hooks on its modules
    charges: bool = True  # it charges its own matrix work, or has none; False: that must be counted from outside
    treat: Callable[[Any, Parameter, int], Treatment] | None = None  # of a parameter, for the tokens in a batch
    about: str = ""  # its equations and its peculiarities
    presets: str = ""  # what of the paper's and of the authors' code can be chosen
    pitfalls: str = ""  # what is known to go wrong
    proof: str = ""  # the tests that hold it against its equations and against others

    def treatments(self, optimizer: Any, model: nn.Module, tokens: int) -> dict[str, Treatment] | None:
        """Return each trainable parameter's treatment by name, for a batch of so many tokens; None: not announced."""
        if self.treat is None:
            return None
        if isinstance(optimizer, Wrapped):
            plain = {p: self.treat(optimizer.wrapped, p, tokens) for _, p in trainable(model)}
            return {name: optimizer.changed(p, plain[p]) for name, p in trainable(model)}
        return {name: self.treat(optimizer, p, tokens) for name, p in trainable(model)}

    def build(
        self,
        model: nn.Module,
        decay_embeddings: bool = True,
        hyperball: float | None = None,
        cautious_decay: bool = False,
        average: float | None = None,
        **keywords: Any,
    ) -> torch.optim.Optimizer:
        """Build the optimizer over the model's parameters; `lr` becomes each group's `initial_lr`.

        Args:
            decay_embeddings: False takes embeddings, a head tied to one too, and learned positions out of weight decay.
            hyperball, cautious_decay, average: changes to its step; see optimizers/wrapped.py.
            keywords: of the optimizer's own constructor.
        """
        return wrap(self.plain(model, decay_embeddings, **keywords), model, hyperball, cautious_decay, average)

    def plain(self, model: nn.Module, decay_embeddings: bool = True, **keywords: Any) -> torch.optim.Optimizer:
        """Build the optimizer as `build` does, but for the changes to its step."""
        check_common(keywords.get("lr", 0.0), keywords.get("weight_decay", 0.0))  # torch's classes name no keyword
        check_betas([beta for beta in keywords.get("betas") or () if beta is not None])  # None: the optimizer's own
        optimizer = self.constructor(self.groups(model), **keywords)
        if not decay_embeddings:
            spare_embeddings(model, optimizer)
        check_cover(model, optimizer.param_groups)
        for group in optimizer.param_groups:
            group["initial_lr"] = float(group["lr"])
        if switches_weights(optimizer):
            optimizer.train()  # type: ignore[attr-defined]  # schedulefree's classes make no step before
        return optimizer


def register(
    name: str,
    *,
    summary: str,
    paper: str,
    groups: Callable[[nn.Module], list[Group] | nn.Module] | None = None,
    charges: bool = True,
    treat: Callable[[Any, Parameter, int], Treatment] | None = None,
    about: str | None = None,
    presets: str = "",
    pitfalls: str = "",
    proof: str = "",
) -> Callable[[type], type]:
    """Enter a class under a name: the one line that adds an optimizer.

    What a class of this package says of itself stands in the head of its file, in its method `treat` and in `groups`.
    """

    def enter(constructor: type) -> type:
        assert name not in REGISTRY, f"two optimizers are named {name}"
        REGISTRY[name] = OptimizerInfo(
            name, constructor, summary, paper, groups or getattr(constructor, "groups", None) or by_decay, charges,
            treat or getattr(constructor, "treat", None),
            about or inspect.getdoc(sys.modules[constructor.__module__]) or "", presets, pitfalls, proof,
        )  # fmt: skip
        return constructor

    return enter


def find(name: str, target: str | None = None, allow_targets: Sequence[str] = ALLOW_TARGETS) -> OptimizerInfo:
    """Return the entry of a registered name; for `external`, one made of the class that `target` names.

    Raises:
        ValueError: no such optimizer, or a target that is not allowed, not there, or no optimizer.
    """
    if name == "external":
        from .external import External  # which makes entries, and so imports this file

        return External.of(target, allow_targets)
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, n=3) or sorted(REGISTRY)
        raise ValueError(f"optimizer {name!r} is not registered: did you mean {' or '.join(near)}?")
    return REGISTRY[name]


def build_optimizer(name: str, model: nn.Module, **keywords: Any) -> torch.optim.Optimizer:
    """Build the named optimizer over a model's parameters, `external` by its `_target_` (and `allow_targets`)."""
    info = find(name, keywords.pop("_target_", None), keywords.pop("allow_targets", ALLOW_TARGETS))
    return info.build(model, **keywords)


def list_optimizers() -> list[OptimizerInfo]:
    """Return all registered optimizers, sorted by name."""
    return [REGISTRY[name] for name in sorted(REGISTRY)]
