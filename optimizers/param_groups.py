"""Parameter groups share hyperparameters: every trainable parameter is in exactly one, a tied weight once."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from optimizers.roles import TABLES, UNKNOWN, kinds, matrix_kinds, transposed_weights

Group = dict[str, Any]


def trainable(model: nn.Module) -> list[tuple[str, Parameter]]:
    """Return the named parameters that take gradients, in the model's order, tied ones once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def decayed(parameters: Iterable[Tensor], kinds: Mapping[Tensor, str] | None = None) -> list[Group]:
    """Group parameters by weight decay: matrices and embeddings as asked for, vectors (biases, LayerNorm) without.

    kinds: of the parameters, by `optimizers.roles`; without them what has fewer than two dimensions is a vector.
    """

    def is_vector(p: Tensor) -> bool:
        return p.ndim < 2 if kinds is None or kinds[p] == UNKNOWN else kinds[p] == "vector"

    parameters = list(parameters)
    groups: list[Group] = [
        {"params": [p for p in parameters if not is_vector(p)]},
        {"params": [p for p in parameters if is_vector(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def by_decay(model: nn.Module) -> list[Group]:
    """Group a model's parameters by weight decay: vectors, which have none, are apart."""
    found = kinds(model)
    return decayed(found, found)


def all_in_one(model: nn.Module) -> list[Group]:
    """Make one group, for classes without a weight decay, some of which (L-BFGS) take no second one."""
    return [{"params": [p for _, p in trainable(model)]}]


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Return the matrices that matrix methods work on: (outputs, inputs), or in transformers' Conv1D (inputs, outputs).

    Raises:
        ValueError: there is no hidden matrix, so that such a method would have nothing to do, or one is no matrix.
    """
    hidden = [p for p, kind in matrix_kinds(model).items() if kind == "hidden"]
    name = type(model).__name__
    if not hidden:
        raise ValueError(
            f"optimizer: {name} has no trainable hidden matrix (a linear layer that is no output head), so there is "
            "nothing for a matrix method to do: take another optimizer"
        )
    for p in hidden:
        if p.ndim != 2:
            raise ValueError(f"optimizer: {name} has a hidden parameter of shape {tuple(p.shape)}, which is no matrix")
    return hidden


def by_kind(model: nn.Module) -> list[Group]:
    """Put hidden matrices apart, marked `hidden` (those kept as (inputs, outputs) `transposed` too); the rest by decay.

    Raises ValueError as `hidden_matrices` does.
    """
    found, hidden = kinds(model), hidden_matrices(model)
    turned = transposed_weights(model)
    upright, lying = [p for p in hidden if p not in turned], [p for p in hidden if p in turned]
    rest = decayed((p for p, kind in found.items() if kind != "hidden"), found)
    groups: list[Group] = [{"params": upright, "hidden": True}, {"params": lying, "hidden": True, "transposed": True}]
    return [*(group for group in groups if group["params"]), *({**group, "hidden": False} for group in rest)]


def by_table(model: nn.Module) -> list[Group]:
    """Group by decay, and put tables (embeddings, learned positions, an output head) apart, marked `table`.

    Raises ValueError as `hidden_matrices` does.
    """
    hidden_matrices(model)
    found = kinds(model)
    groups = decayed((p for p, kind in found.items() if kind not in TABLES), found)
    tables = [p for p, kind in found.items() if kind in TABLES]
    return [*groups, {"params": tables, "table": True}] if tables else groups


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
