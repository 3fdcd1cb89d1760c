"""Roles tell how a model uses each parameter. The model gives them, or its modules' types and names stand in.

A model gives them by a method `roles()`, which returns for each parameter an object with an attribute `kind`:

    embedding   looked up by token; perhaps the output head too, tied
    positions   looked up by place
    head        an output head with a matrix of its own
    hidden      a matrix between them, which matrix methods work on
    vector      a bias or a gain, which is not decayed

Without that method, as in external models, a matrix of an `nn.Embedding` is an embedding, also where a linear layer
shares it; one of an `nn.Linear` or of transformers' `Conv1D` is hidden, unless it is known as the output head.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

KINDS = ("embedding", "positions", "head", "hidden", "vector")
TABLES = ("embedding", "positions", "head")  # a row for each token or each place
UNKNOWN = "unknown"  # a matrix of which nothing tells what it is

POSITIONS = {"wpe", "positions", "position", "position_embeddings", "position_embedding", "embed_positions", "pos_emb"}
HEADS = {"lm_head", "embed_out", "unembed", "unembedding"}  # wherever the layer stands
OUTERMOST_HEADS = {"head", "output", "decoder", "classifier", "score"}  # of the model itself, and of none of its parts
ATTENTION = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}  # of nn.MultiheadAttention


def kinds(model: nn.Module) -> dict[Tensor, str]:
    """Return the kind of each trainable parameter, in the model's order.

    Raises:
        ValueError: the model gives roles, and a parameter has none, or one of no known kind.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not callable(getattr(model, "roles", None)):
        kind_of = _worked_out(model)
        return {p: kind_of[p] for _, p in trainable}
    roles: Mapping[Parameter, Any] = model.roles()  # type: ignore[operator]
    for name, p in trainable:
        kind = roles[p].kind if p in roles else "none"
        if kind not in KINDS:
            raise ValueError(
                f"model: parameter {name} has role {kind}; {type(model).__name__}.roles() must give it one of "
                f"{', '.join(KINDS)}"
            )
    return {p: roles[p].kind for _, p in trainable}


def matrix_kinds(model: nn.Module) -> dict[Tensor, str]:
    """Return what `kinds` does, and refuse a model with a matrix of which nothing tells what it is.

    Raises:
        ValueError: it names that matrix.
    """
    kind_of = kinds(model)
    for name, p in model.named_parameters():
        if kind_of.get(p) == UNKNOWN and p.ndim == 2:
            raise ValueError(
                f"model: cannot tell whether parameter {name} {tuple(p.shape)} is a hidden matrix, an output head or "
                "a table; take an optimizer that treats all matrices alike, or give the model a method roles(), as "
                "optimizers/roles.py describes it"
            )
    return kind_of


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module multiplies its input with its `weight`: an nn.Linear, or transformers' Conv1D."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a linear module keeps its weight as (inputs, outputs): transformers' Conv1D, known by its name."""
    return type(module).__name__ == "Conv1D" and getattr(getattr(module, "weight", None), "ndim", 0) == 2


def transposed_weights(model: nn.Module) -> set[Tensor]:
    """Return the weights that are kept as (inputs, outputs)."""
    return {module.weight for module in model.modules() if is_transposed(module)}  # type: ignore[misc]


def fused_outputs(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the outputs of each matrix in those hidden parameters that hold several, as a fused qkv does.

    The model's roles tell it by their `rows`. Without roles it is known of nn.MultiheadAttention's `in_proj_weight`,
    and of transformers' `c_attn` where it is three times as wide as its input: queries, keys and values of one size.
    """
    if callable(getattr(model, "roles", None)):
        roles: Mapping[Parameter, Any] = model.roles()  # type: ignore[operator]
        return {p: tuple(role.rows) for p, role in roles.items() if len(getattr(role, "rows", ())) > 1}
    fused: dict[Tensor, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            fused[module.in_proj_weight] = (module.embed_dim,) * 3
        elif name.rpartition(".")[2] == "c_attn" and is_transposed(module):
            inputs, outputs = module.weight.shape
            if outputs == 3 * inputs:
                fused[module.weight] = (inputs,) * 3
    return fused


def _worked_out(model: nn.Module) -> dict[Tensor, str]:
    """Work the kinds out from the types and names of the modules that a parameter belongs to."""
    uses: dict[Tensor, list[tuple[str, str, nn.Module]]] = defaultdict(list)
    for name, module in model.named_modules():
        for key, p in module.named_parameters(recurse=False):
            uses[p].append((name, key, module))
    kind_of = {p: _kind(p, of) for p, of in uses.items()}
    output = getattr(model, "get_output_embeddings", lambda: None)()  # transformers' models know their own
    if output is not None and kind_of.get(output.weight) in ("hidden", UNKNOWN):
        kind_of[output.weight] = "head"
    _doubt(kind_of, uses)
    return kind_of


def _kind(p: Tensor, uses: list[tuple[str, str, nn.Module]]) -> str:
    if p.ndim < 2:
        return "vector"
    names = {name.rpartition(".")[2] for name, _, _ in uses}
    if any(isinstance(module, nn.Embedding) for _, _, module in uses):
        return "positions" if names & POSITIONS else "embedding"
    if any(is_linear(module) and key == "weight" for _, key, module in uses):
        head = names & HEADS or any(name in OUTERMOST_HEADS for name, _, _ in uses)
        return "head" if head else "hidden"
    attention = any(isinstance(module, nn.MultiheadAttention) and key in ATTENTION for _, key, module in uses)
    return "hidden" if attention else UNKNOWN


def _doubt(kind_of: dict[Tensor, str], uses: Mapping[Tensor, list[tuple[str, str, nn.Module]]]) -> None:
    """Mark as UNKNOWN what may be the head where none is known: a linear layer with an output for each token."""
    tied = any(kind == "embedding" and len(uses[p]) > 1 for p, kind in kind_of.items())
    if tied or "head" in kind_of.values():
        return
    tokens = {len(p) for p, kind in kind_of.items() if kind == "embedding"}
    for p, kind in kind_of.items():
        outputs = p.shape[1] if any(is_transposed(module) for _, _, module in uses[p]) else len(p) if p.ndim else 0
        if kind == "hidden" and outputs in tokens:
            kind_of[p] = UNKNOWN
