"""Which parameters share hyperparameters: every trainable one in exactly one group, a tied weight once."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

Group = dict[str, Any]


def trainable(model: nn.Module) -> list[tuple[str, Parameter]]:
    """Named parameters that take gradients, in the model's order, tied ones once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def decayed(parameters: Iterable[Parameter]) -> list[Group]:
    """Matrices and embeddings with the weight decay asked for, vectors (biases, LayerNorm) with none."""
    parameters = list(parameters)
    groups: list[Group] = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def by_decay(model: nn.Module) -> list[Group]:
    return decayed(p for _, p in trainable(model))


def all_in_one(model: nn.Module) -> list[Group]:
    """For classes without a weight decay, some of which (L-BFGS) take one group only."""
    return [{"params": [p for _, p in trainable(model)]}]


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of linear layers that are not tied to an embedding: what matrix methods work on."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return [w for w in linear if w.requires_grad and id(w) not in embeddings]


def by_kind(model: nn.Module) -> list[Group]:
    """Hidden matrices apart (marked `hidden`), then the rest by decay."""
    hidden = hidden_matrices(model)
    taken = {id(p) for p in hidden}
    rest = decayed(p for _, p in trainable(model) if id(p) not in taken)
    return [{"params": hidden, "hidden": True}, *({**group, "hidden": False} for group in rest)]


def by_table(model: nn.Module) -> list[Group]:
    """By decay; then tables (embeddings, learned positions, a head tied to one) apart, marked `table`."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parameters = [p for _, p in trainable(model)]
    groups = decayed(p for p in parameters if id(p) not in tables)
    looked_up = [p for p in parameters if id(p) in tables]
    return [*groups, {"params": looked_up, "table": True}] if looked_up else groups


def check_cover(model: nn.Module, groups: Iterable[Group]) -> None:
    """Raise unless the groups hold each trainable parameter exactly once."""
    seen: dict[int, int] = {}
    for group in groups:
        for p in group["params"]:
            seen[id(p)] = seen.get(id(p), 0) + 1
    for name, p in trainable(model):
        if seen.pop(id(p), 0) != 1:
            raise ValueError(f"parameter {name} must be in exactly one group of the optimizer")
    if seen:
        raise ValueError(f"the optimizer holds {len(seen)} tensors that are no trainable parameters of the model")
