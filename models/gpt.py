"""GPT-2 in nanoGPT's shape and initialisation, without dropout.

Pre-LayerNorm blocks, learned positions, exact GELU, and one matrix that is both the embedding and the output
head. The head is applied with `F.linear` and has no module of its own, so a state dict holds the matrix once and
no parameter group can take it twice.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from models.base import (
    InitScale,
    LanguageModel,
    Losses,
    Role,
    check_init_scale,
    check_sizes,
    roles_by_module,
    training_flops,
)
from models.head import head_loss


class Attention(nn.Module):
    """Causal self-attention. `divisor` divides the logits beyond the usual sqrt(Q)."""

    def __init__(self, heads: int, width: int, bias: bool, divisor: int):
        super().__init__()
        self.heads = heads
        self.scale = 1 / (math.sqrt(width // heads) * divisor)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)  # the three stacked, each (heads * Q, width)
        self.projection = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).split(width, dim=2)
        q, k, v = (y.view(batch, time, self.heads, -1).transpose(1, 2) for y in qkv)  # (B, H, T, Q) each
        # Which kernel runs is the caller's choice (torch.nn.attention.sdpa_kernel): only MATH differentiates twice.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.projection(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, heads: int, width: int, bias: bool, divisor: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(heads, width, bias, divisor)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.mlp = MLP(width, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(LanguageModel):
    """`model(tokens)` gives logits, `model(tokens, targets)` the loss.

    layers: blocks
    heads: attention heads per block; each works on Q = width / heads dimensions
    width: of the residual stream
    context: longest sequence, in tokens; the rows of the position table
    vocabulary: rows of the embedding, which may be padded beyond the tokenizer's (see `padded_vocabulary`)
    bias: a bias in every linear layer and LayerNorm, as OpenAI's weights have
    scale_attention_by_layer: divide the attention logits of block i = 1, 2, ... by i, as Sophia's authors do
    init_scale: standard deviations of hidden matrices at first, as multiples of torch's default for a linear layer,
        1 / sqrt(3 inputs): of queries, keys and values; of attention's projection; of the MLP's first layer; of its
        second; null: as `initialize` has them
    """

    causal = True

    def __init__(
        self,
        layers: int,
        heads: int,
        width: int,
        context: int,
        vocabulary: int,
        bias: bool = False,
        scale_attention_by_layer: bool = False,
        init_scale: InitScale | None = None,
    ):
        check_sizes(vocabulary, layers=layers, heads=heads, width=width, context=context)
        check_init_scale(init_scale)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, but {width} is not one of {heads}")
        super().__init__()
        self.heads, self.context, self.scale_attention_by_layer = heads, context, scale_attention_by_layer
        self.init_scale = init_scale
        self.embedding = nn.Embedding(vocabulary, width)  # the head too
        self.positions = nn.Embedding(context, width)
        divisors = range(1, layers + 1) if scale_attention_by_layer else [1] * layers
        self.blocks = nn.ModuleList(Block(heads, width, bias, divisor) for divisor in divisors)
        self.norm = nn.LayerNorm(width, bias=bias)
        self.initialize()

    @torch.no_grad()
    def initialize(self, generator: Generator | None = None) -> None:
        """Draw weights from N(0, .02), but .02 / sqrt(2 L) for the 2 L matrices that write to the residual stream."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1)
            elif name.endswith(("projection.weight", "down.weight")):
                parameter.normal_(0, 0.02 / math.sqrt(2 * len(self.blocks)), generator=generator)
            else:
                parameter.normal_(0, 0.02, generator=generator)
        self.scale_hidden(generator)

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | Losses:
        self.check_length(inputs)
        x = self.embedding(inputs) + self.positions.weight[: inputs.size(1)]  # (B, T, width)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if targets is None:
            return F.linear(x, self.embedding.weight)
        return Losses(*head_loss(x.flatten(0, 1), self.embedding.weight, targets.flatten()))

    def roles(self) -> dict[Parameter, Role]:
        width = self.embedding.embedding_dim
        matrices = {
            "embedding": Role("embedding"), "positions": Role("positions"),
            "qkv": Role("hidden", "qkv", (width, width, width)), "projection": Role("hidden", "projection"),
            "up": Role("hidden", "up"), "down": Role("hidden", "down"),
        }  # fmt: skip
        return roles_by_module(self, matrices)

    def flops_per_token(self, context: int) -> int:
        width = self.embedding.embedding_dim
        return training_flops(self.matrix_parameters(), len(self.blocks), width, context)
