"""A language model keeps this contract with those who train, measure and optimize it: loss, roles, FLOPs, causality.

A new family is a file here that implements `LanguageModel`, an entry in `models.MODELS`, and a YAML in configs/model/.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from conventions.masking import Masking


class Losses(NamedTuple):
    """The loss of a batch as a sum over its counted targets, and how many those are; scalars all.

    Whoever wants a mean divides by the count over all micro-batches and ranks, so that it does not depend on how a
    batch was cut. Each tensor is in fp32 at least, under autocast too.

    sum: in nats, over all targets but those that are negative, -100 for one.
    count: the number of those targets.
    auxiliary: what the model adds to `sum` for its gradient alone (a z-loss), summed over the same targets; None where
        it adds nothing. It is no part of a training or a validation loss.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    auxiliary: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Return the mean loss of this batch alone, in nats per counted target."""
        return self.sum / self.count


@dataclass(frozen=True)
class Role:
    """The use of a parameter in its model, for those who treat matrices by what they do.

    kind: `embedding` is looked up by token, and may be the head too; `positions` is looked up by place; `head` is an
        output head with a matrix of its own; `hidden` is a matrix between them; `vector` is a bias or a gain.
    what: of a hidden matrix, (outputs, inputs): qkv, projection, up, gate or down.
    rows: of each matrix, where a hidden one is several on top of one another: a fused qkv is queries, keys and values.
    """

    kind: Literal["embedding", "positions", "head", "hidden", "vector"]
    what: Literal["", "qkv", "projection", "up", "gate", "down"] = ""
    rows: tuple[int, ...] = ()


# First sizes of hidden matrices by what they are: of qkv, projection, up and gate, down.
InitScale = tuple[float, float, float, float]
PLACES = {"qkv": 0, "projection": 1, "up": 2, "gate": 2, "down": 3}


def roles_by_module(model: nn.Module, matrices: Mapping[str, Role]) -> dict[Parameter, Role]:
    """Return the role of each parameter: that of its module's own name for a matrix, `vector` for the others.

    A matrix in a module without an entry has none.
    """
    roles = {}
    for name, parameter in model.named_parameters():
        module = f".{name}".split(".")[-2]
        if parameter.ndim < 2:
            roles[parameter] = Role("vector")
        elif module in matrices:
            roles[parameter] = matrices[module]
    return roles


def training_flops(parameters: int, layers: int, width: int, context: int) -> int:
    """Count forward and backward per token, 6 N + 12 L H Q T (Chowdhery et al. 2022, PaLM, appendix B).

    2 N + 4 L H Q T of it is the forward pass, and backward costs twice that. The whole T x T square of the attention is
    counted, as is the custom, although a causal kernel may do half of it. Grouped queries save none of it.

    parameters: N, those in matrix products. layers: L. width: H Q, of all heads together. context: T.
    """
    return 6 * parameters + 12 * layers * width * context


class LanguageModel(nn.Module, ABC):
    """Every model family implements this contract.

    causal: whether no position sees a later token, so that each may predict the next one.
    masking: what a model that is not causal predicts; its batches are masked so. None: it predicts the next token.
    extra_tokens: rows of the embedding that it needs beyond the data's own tokens.
    context: longest sequence, in tokens.
    init_scale: standard deviations of hidden matrices at first, as multiples of torch's default for a linear layer,
        1 / sqrt(3 inputs); None: as the model has them by itself.
    """

    causal: bool
    masking: Masking | None = None
    extra_tokens: int = 0
    context: int
    init_scale: InitScale | None = None

    @abstractmethod
    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | Losses:
        """Return logits (B, T, V), or with targets the loss.

        inputs, targets: int64 (B, T); a negative target is not counted. Raises ValueError where T exceeds the context.
        """

    @abstractmethod
    def roles(self) -> dict[Parameter, Role]:
        """Give every parameter a role, a tied one once."""

    @abstractmethod
    def flops_per_token(self, context: int) -> int:
        """Count FLOPs of the forward and the backward pass per token, in sequences of `context` tokens."""

    def sampled_flops_per_token(self, context: int) -> int:
        """Count the same for a pass that needs the logits of every token, to draw labels from them."""
        return self.flops_per_token(context)

    @abstractmethod
    def initialize(self, generator: Generator | None = None) -> None:
        """Draw every weight anew; a model that takes an `init_scale` calls `scale_hidden` at the end."""

    @torch.no_grad()
    def scale_hidden(self, generator: Generator | None = None) -> None:
        """Draw the hidden matrices again as `init_scale` has it; without one they stay as they are."""
        if self.init_scale is None:
            return
        for parameter, role in self.roles().items():
            if role.kind == "hidden":
                deviation = self.init_scale[PLACES[role.what]] / math.sqrt(3 * parameter.size(1))
                parameter.normal_(0, deviation, generator=generator)

    def check_length(self, inputs: Tensor) -> None:
        """Raise ValueError where sequences (B, T) are longer than the context."""
        if (time := inputs.size(1)) > self.context:
            raise ValueError(f"context must be at least {time} for {time} tokens in a row, not {self.context}")

    def matrix_parameters(self) -> int:
        """Return N: entries of every matrix in a matrix product, a tied head once; no table that is only looked up."""
        by_kind: dict[str, int] = {}
        for parameter, role in self.roles().items():
            by_kind[role.kind] = by_kind.get(role.kind, 0) + parameter.numel()
        return by_kind.get("hidden", 0) + by_kind.get("head", by_kind.get("embedding", 0))


def check_init_scale(scale: InitScale | None) -> None:
    """Raise ValueError for a factor that is not above 0, or not finite."""
    if scale is not None and not all(0 < factor < math.inf for factor in scale):
        raise ValueError(f"init_scale must be four numbers above 0, not {list(scale)}; null: the model's own sizes")


def check_sizes(vocabulary: int, **sizes: int | None) -> None:
    """Raise ValueError for the first size below 1, by its name; None is none."""
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if vocabulary < 1:
        raise ValueError(f"vocabulary must be at least 1 or auto, not {vocabulary}")
