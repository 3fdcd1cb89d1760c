"""Parameter groups share hyperparameters: every trainable parameter is in exactly one, a tied weight once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from .roles import TABLES, UNKNOWN, fused_outputs, kinds, matrix_kinds, transposed_weights

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
    by_parameter = kinds(model)
    return decayed(by_parameter, by_parameter)


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
    """Put hidden matrices apart, marked `hidden`; the rest by decay.

    Raises ValueError as `hidden_matrices` does.
    """
    matrices, by_parameter = _matrices(model), kinds(model)
    rest = decayed((p for p, kind in by_parameter.items() if kind != "hidden"), by_parameter)
    return [{**group, "hidden": True} for group in matrices] + [{**group, "hidden": False} for group in rest]


def by_table(model: nn.Module) -> list[Group]:
    """Group by decay, and put tables (embeddings, learned positions, an output head) apart, marked `table`.

    Raises ValueError as `hidden_matrices` does.
    """
    matrices, by_parameter = _matrices(model), kinds(model)
    rest = decayed((p for p, kind in by_parameter.items() if kind not in ("hidden", *TABLES)), by_parameter)
    tables = [p for p, kind in by_parameter.items() if kind in TABLES]
    others = [{**group, "table": False} for group in [*matrices, *rest]]
    return [*others, {"params": tables, "table": True}] if tables else others


def _matrices(model: nn.Module) -> list[Group]:
    """Group the hidden matrices by what `optimizers.pieces` must know of them.

    Those kept as (inputs, outputs) are marked `transposed`, and those that are several matrices in one, as a fused qkv
    is, have the outputs of each as `outputs`.
    """
    transposed, fused = transposed_weights(model), fused_outputs(model)
    alike: dict[tuple[bool, tuple[int, ...]], list[Tensor]] = defaultdict(list)
    for p in hidden_matrices(model):
        alike[p in transposed, fused.get(p, ())].append(p)
    groups: list[Group] = []
    for (turned, outputs), params in sorted(alike.items(), key=lambda item: item[0]):
        marks = {"transposed": True} if turned else {}
        groups.append({"params": params, **marks, **({"outputs": outputs} if outputs else {})})
    return groups


def spare_embeddings(model: nn.Module, optimizer: Optimizer) -> None:
    """Give embeddings and learned positions groups of their own, without weight decay; before the first step.

    Raises:
        ValueError: the optimizer has no weight decay.
    """
    if not any("weight_decay" in group for group in optimizer.param_groups):
        raise no_weight_decay(type(optimizer))
    tables_apart(optimizer.param_groups, model)


def tables_apart(groups: list[Group], model: nn.Module, decayed_by_default: bool = False) -> None:
    """Move embeddings and learned positions out of groups with a weight decay, to groups at the end without one.

    decayed_by_default: a group that names no weight decay has one.
    """
    tables = {p for p, kind in kinds(model).items() if kind in ("embedding", "positions")}
    for group in list(groups):
        spared = [p for p in group["params"] if p in tables]
        if not spared or not group.get("weight_decay", decayed_by_default):
            continue
        group["params"] = [p for p in group["params"] if p not in tables]
        groups.append({**group, "params": spared, "weight_decay": 0.0})
    groups[:] = [group for group in groups if group["params"]]


def matrices_apart(groups: list[Group], model: nn.Module, marks: Group) -> None:
    """Move hidden matrices to groups of their own, which stand where theirs stood, without weight decay.

    marks: keys of those groups.
    """
    matrices, found = _matrices(model), list[Group]()
    for group in groups:
        own: list[Group] = []
        for alike in matrices:
            inner = set(alike["params"])
            params = [p for p in group["params"] if p in inner]
            own += [{**group, **alike, **marks, "params": params}] if params else []
        apart = {p for each in own for p in each["params"]}
        group["params"] = [p for p in group["params"] if p not in apart]
        for each in own:
            each |= {"weight_decay": 0.0} if "weight_decay" in each else {}
        found += [*([group] if group["params"] else []), *own]
    groups[:] = found


def group_of(groups: Iterable[Group], p: Tensor) -> Group:
    """Return the group that a parameter is in."""
    return next(group for group in groups if any(p is q for q in group["params"]))


def no_weight_decay(kind: type, key: str = "decay_embeddings") -> ValueError:
    """Make the sentence on a key for a class that decays nothing."""
    return ValueError(f"{key} is for optimizers with a weight_decay, which {kind.__name__} has not: leave it out")


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
