"""Roles of parameters that come without their model are worked out from their names and shapes.

Names are known best: `model.named_parameters()` tells an embedding from a projection. From shapes alone, a table is
what is left over when the repeated blocks are taken out. What was decided is printed, since it can be wrong: a model
itself, `Muon(model)`, leaves nothing to work out but what `optimizers.roles` says.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn

from .param_groups import Group
from .roles import HEADS, OUTERMOST_HEADS, POSITIONS

EMBEDDINGS = {"wte", "tok_emb", "token_emb", "token_embedding", "tok_embeddings", "embed_tokens", "word_embeddings"}
EMBEDDINGS |= {"embedding", "embeddings", "embed", "embed_in", "emb", "shared"}
FUSED = {"c_attn", "qkv", "qkv_proj", "in_proj_weight", "Wqkv"}  # queries, keys, values, one after the other
WRAPPERS = {"module", "model", "transformer", "_orig_mod", "_fsdp_wrapped_module"}


class WorkedOut(NamedTuple):
    """A role as a model's `roles()` would give it."""

    kind: str
    rows: tuple[int, ...] = ()


class Bare:
    """Parameters without their model answer what `optimizers.param_groups` asks a model.

    Args:
        named: (name, parameter); names of the form "0", "1", ... tell nothing.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.named = list(named)
        kinds = _by_name(self.named) or _by_count(self.named)
        self.kinds = {p: kinds.get(p, "hidden") if p.ndim == 2 else "vector" for _, p in self.named}

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return self.named

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        return iter(())

    def modules(self) -> Iterator[nn.Module]:
        return iter(())

    def roles(self) -> dict[Tensor, WorkedOut]:
        return {p: WorkedOut(self.kinds[p], self._rows(name, p)) for name, p in self.named}

    def _rows(self, name: str, p: Tensor) -> tuple[int, ...]:
        """Return the outputs of each matrix in a fused qkv, known by its name.

        Raises:
            ValueError: it is kept as (inputs, outputs), as in transformers' GPT-2, whose other names do not say so.
        """
        if not FUSED & set(name.split(".")) or self.kinds[p] != "hidden":
            return ()
        outputs, inputs = p.shape
        if inputs == 3 * outputs:
            raise ValueError(
                f"params: {name} is kept as (inputs, outputs), which names do not tell of the other matrices: give "
                "the model itself instead of its parameters"
            )
        return (inputs,) * 3 if outputs == 3 * inputs else ()


def by_shape(group: Group, optimizer: Any) -> list[Group]:
    """Take a group apart as an optimizer's `groups` would a model's parameters, and print what was decided.

    The group's own keys stay as they are, its weight decay too: only what it lacks is worked out.

    Args:
        group: `params` are parameters, or pairs of a name and a parameter.
        optimizer: a class with `groups` and `mark`.
    """
    params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    named = [each if isinstance(each, tuple) else (str(i), each) for i, each in enumerate(params)]
    as_passed = {p: each for (_, p), each in zip(named, params, strict=True)}
    model = Bare((name, p) for name, p in named if p.requires_grad)
    parts = optimizer.groups(model) if "hidden" in model.kinds.values() else [{"params": list(model.kinds)}]
    frozen = [p for _, p in named if not p.requires_grad]
    alike: dict[str, Group] = {}
    for part in [*parts, *([{"params": frozen}] if frozen else [])]:
        marks = {optimizer.mark: False, **{k: v for k, v in part.items() if k not in ("params", "weight_decay")}}
        whole = alike.setdefault(repr(sorted(marks.items())), {**group, **marks, "params": []})
        whole["params"] += [as_passed[p] for p in part["params"]]
    _say(optimizer.__name__, model)
    return list(alike.values())


def _by_name(named: Iterable[tuple[str, Tensor]]) -> dict[Tensor, str]:
    """Return the kind of each table that its name gives away."""
    kind_of: dict[Tensor, str] = {}
    outside: list[Tensor] = []  # matrices of no numbered block
    for name, p in named:
        words = [word for word in name.split(".") if word not in WRAPPERS]
        in_block = any(word.isdigit() for word in words)
        if p.ndim != 2:
            continue
        if POSITIONS & set(words):
            kind_of[p] = "positions"
        elif EMBEDDINGS & set(words):
            kind_of[p] = "embedding"
        elif HEADS & set(words) or (words[0] in OUTERMOST_HEADS and not in_block):
            kind_of[p] = "head"
        elif not in_block:
            outside.append(p)
    if "head" not in kind_of.values():
        tokens = {len(p) for p, kind in kind_of.items() if kind == "embedding"}
        kind_of |= {p: "head" for p in outside if len(p) in tokens}  # an output for each token
    return kind_of


def _by_count(named: Iterable[tuple[str, Tensor]]) -> dict[Tensor, str]:
    """Return the tables: what is left over of each shape when as many blocks are taken out as there seem to be."""
    by_shape: dict[Any, list[Tensor]] = {}
    for _, p in named:
        if p.ndim == 2:
            by_shape.setdefault(tuple(p.shape), []).append(p)
    numbers = Counter(len(alike) for alike in by_shape.values() if len(alike) > 1)
    if not numbers:
        return {}
    (blocks, most), *others = numbers.most_common()
    if others and others[0][1] == most:  # no number stands out, as where a block has several matrices of one shape
        blocks = math.gcd(*([number for number in numbers if number > 2] or numbers))
    kind_of: dict[Tensor, str] = {}
    for alike in by_shape.values():
        left = len(alike) % blocks
        # An embedding comes first, a head last.
        kind_of |= dict.fromkeys([*alike[: left - left // 2], *alike[len(alike) - left // 2 :]], "embedding")
    return kind_of


def _say(optimizer: str, model: Bare) -> None:
    """Print what was decided, once for all ranks."""
    if dist.is_available() and dist.is_initialized() and dist.get_rank():
        return
    words = {"hidden": "hidden matrices", "vector": "vectors"}
    sorts: dict[str, Counter[str]] = {}
    for name, p in model.named:
        label = f"{tuple(p.shape)}" if name.isdigit() else re.sub(r"\.\d+\.", ".*.", name)
        sorts.setdefault(words.get(model.kinds[p], "tables"), Counter())[label] += 1
    parts = []
    for sort, labels in sorted(sorts.items()):
        few = ", ".join(list(labels)[:6]) + (", ..." if len(labels) > 6 else "")
        parts.append(f"{labels.total()} {sort}" + ("" if sort == "vectors" else f" ({few})"))
    by = "shapes" if all(name.isdigit() for name, _ in model.named) else "names and shapes"
    print(f"{optimizer} tells by {by}: {'; '.join(parts)}. If that is wrong, give it the model itself.")
