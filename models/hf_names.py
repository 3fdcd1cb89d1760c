"""Holds what conversions to and from transformers share: weights' names, and options that have no counterpart here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Names:
    """Translates our names of weights: blocks.3.mlp.up.weight becomes, say, model.layers.3.mlp.up_proj.weight.

    outside, inside: their names of our modules, outside of the blocks and within one. blocks: of the list of blocks.
    """

    outside: Mapping[str, str]
    inside: Mapping[str, str]
    blocks: str

    def theirs(self, name: str) -> str:
        module, _, kind = name.rpartition(".")
        if module in self.outside:
            return f"{self.outside[module]}.{kind}"
        _, index, inside = module.split(".", 2)
        return f"{self.blocks}.{index}.{self.inside[inside]}.{kind}"


def refuse_other(values: Mapping[str, Any], wanted: Mapping[str, Sequence[Any]]) -> None:
    """Raise ValueError for the first option of a model of transformers whose value is none of those that convert."""
    for key, right in wanted.items():
        if values[key] not in right:
            raise ValueError(
                f"{key}={values[key]} of the transformers model has no counterpart here: "
                f"only {key}={' or '.join(map(str, right))} converts with equal logits"
            )
