"""Assembles an optimizer of another package: what its constructor asks for, what it wraps, and what works beside it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from ..base import switches_weights
from ..param_groups import (
    Group,
    all_in_one,
    by_decay,
    hidden_matrices,
    no_weight_decay,
    tables_apart,
    trainable,
)
from .adapter import Adapter, Member, inside
from .manner import Manner
from .request import names_by_role, request_of, shape_of

SECTIONS = ("base", "rest", "hidden")  # of an external class: see External.plain
_TRIED: dict[Any, Any] = {}  # wrapped classes: every tryout of the wrapper would repeat theirs


def assemble(
    entry: Any, model: nn.Module, manner: Manner, decay_embeddings: bool, keywords: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Build the class that an entry names; a bare instance where it steps as torch's own do."""
    base, rest, hidden = (keywords.get(name) or {} for name in SECTIONS)
    groups = _groups(entry, model, decay_embeddings, base)
    matrices = hidden_matrices(model) if manner.params in ("flags", "hidden groups", "hidden list") else []
    inner = {id(p) for p in matrices}
    others = [{**group, "params": [p for p in group["params"] if id(p) not in inner]} for group in groups]
    others = [group for group in others if group["params"]]

    asked, flag = entry.request.asked, entry.request.flag
    arguments = _facts(entry, model)
    if "params" in asked:
        shapes = {
            "groups": lambda: groups,
            "list": lambda: [p for _, p in trainable(model)],
            "hidden groups": lambda: [{"params": matrices}],
            "hidden list": lambda: matrices,
            "flags": lambda: [
                {"params": matrices, **hidden, flag: True},
                *({**g, **rest, flag: False} for g in others),
            ],
        }
        arguments[asked["params"]] = shapes[manner.params]()
    if "specs" in asked:
        arguments[asked["specs"]] = _specs(entry, model, base, rest)
    elif "base" in asked and base:
        arguments[asked["base"]] = _wrapped(entry, model, manner, decay_embeddings, base)
    arguments |= _own(keywords)
    optimizer = entry.constructor(**arguments)
    if switches_weights(optimizer):
        _to_training(optimizer)
    parts = [Member(optimizer, manner)]
    if "_target_" in rest and "specs" not in asked:
        parts.append(_beside(entry, model, others, rest))
    bare = manner.plain and (manner.switches or not switches_weights(optimizer)) and not any(inside(optimizer))
    return optimizer if bare and len(parts) == 1 else Adapter(parts)


def _own(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in (*SECTIONS, "_target_")}


def _groups(entry: Any, model: nn.Module, decay_embeddings: bool, base: Mapping[str, Any]) -> list[Group]:
    """Group the parameters by weight decay where the class, or what it wraps, has one."""
    classes = [entry.constructor, *([_entry(entry, "base", base).constructor] if "_target_" in base else [])]
    decays = any("weight_decay" in request_of(each).keywords for each in classes)
    if decay_embeddings:
        return by_decay(model) if decays else all_in_one(model)
    if not decays:
        raise no_weight_decay(entry.constructor)
    groups = by_decay(model)
    tables_apart(groups, model, decayed_by_default=True)
    return groups


def _facts(entry: Any, model: nn.Module) -> dict[str, Any]:
    """Return what the class asks for of the run and the model, by its own names."""
    asked = entry.request.asked
    facts: dict[str, Any] = {"model": model, "named": names_by_role(model)}
    facts |= {"steps": entry.steps, "data": entry.targets, **shape_of(model)}
    return {asked[kind]: fact for kind, fact in facts.items() if kind in asked}


def _entry(entry: Any, name: str, section: Mapping[str, Any]) -> Any:
    found = entry.of(section["_target_"], entry.allow_targets, f"{entry.key}.{name}")
    return replace(found, steps=entry.steps, targets=entry.targets)


def _tried(entry: Any, name: str, section: Mapping[str, Any], model: nn.Module) -> Any:
    device = str(next(model.parameters()).device)
    key = (entry.key, name, entry.steps, entry.targets, device, repr(sorted(section.items(), key=str)))
    if key not in _TRIED:
        keywords = {k: v for k, v in section.items() if k != "_target_"}
        _TRIED[key] = _entry(entry, name, section).tried(device, **keywords)
    return _TRIED[key]


def _wrapped(
    entry: Any, model: nn.Module, manner: Manner, decay_embeddings: bool, base: Mapping[str, Any]
) -> torch.optim.Optimizer | type[torch.optim.Optimizer]:
    """Return what a class wraps: an instance over the model, or a class that has its keywords already."""
    if manner.base == "class":
        return _with_keywords(_entry(entry, "base", base).constructor, _own(base))
    wrapped = _tried(entry, "base", base, model)
    keywords = {key: value for key, value in base.items() if key != "_target_"}
    return assemble(wrapped, model, wrapped.manner, decay_embeddings, keywords)


def _with_keywords(constructor: type[Any], keywords: Mapping[str, Any]) -> type[Any]:
    def initialize(self: Any, params: Any, **more: Any) -> None:
        constructor.__init__(self, params, **{**keywords, **more})

    return type(constructor.__name__, (constructor,), {"__init__": initialize, "__module__": constructor.__module__})


def _beside(entry: Any, model: nn.Module, groups: list[Group], rest: Mapping[str, Any]) -> Member:
    """Build the optimizer of what is no hidden matrix.

    Raises:
        ValueError: it cannot work beside another, whose gradients it would change.
    """
    other = _tried(entry, "rest", rest, model)
    odd = other.manner.gradient_before or other.manner.graph or other.manner.params not in ("groups", "list")
    if odd or "params" not in other.request.asked or "base" in rest:
        raise ValueError(
            f"{entry.key}.rest._target_={rest['_target_']} cannot work beside another class: give "
            f"{entry.key}.rest._target_=torch.optim.AdamW"
        )
    params: list[Any] = [dict(group) for group in groups]
    if "weight_decay" not in other.request.keywords:
        params = [{"params": [p for group in groups for p in group["params"]]}]
    if other.manner.params == "list":
        params = [p for group in groups for p in group["params"]]
    made = other.constructor(**_facts(other, model), **{other.request.asked["params"]: params}, **_own(rest))
    if switches_weights(made):
        _to_training(made)
    return Member(made, other.manner)


def _specs(entry: Any, model: nn.Module, base: Mapping[str, Any], rest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the classes of a class that joins several, each with its parameters: hidden matrices, and the rest."""
    matrices: list[Parameter] = hidden_matrices(model)  # type: ignore[assignment]
    inner = {id(p) for p in matrices}
    first, other = (_entry(entry, name, each).constructor for name, each in (("base", base), ("rest", rest)))
    specs = [{"params": matrices, "optimizer": first, **_own(base)}]
    for group in by_decay(model):
        params = [p for p in group["params"] if id(p) not in inner]
        marks = {key: value for key, value in group.items() if key != "params"}
        specs += [{"params": params, "optimizer": other, **_own(rest), **marks}] if params else []
    return specs


def _to_training(optimizer: Any) -> None:
    """Switch to the weights that are trained: schedulefree's classes make no step before."""
    try:
        optimizer.train()
    except AttributeError:  # a wrapper hands the call to an optimizer that knows of none
        return
