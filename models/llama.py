"""The modern decoder: rotary positions, RMSNorm and SwiGLU, no biases, and the variants that optimizer papers trained.

Touvron et al. 2023, "LLaMA" (arXiv 2302.13971); rotary positions: Su et al. 2021 (2104.09864); SwiGLU: Shazeer 2020
(2002.05202); normalised queries and keys: Dehghani et al. 2023 (2302.05442); grouped queries: Ainslie et al. 2023
(2305.13245); z-loss: Chowdhery et al. 2022, PaLM, section 5.
"""

import math
from typing import Literal

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

NormKind = Literal["rms", "layer"]
QKNorm = Literal["none", "head", "width", "l2"]
Turns = tuple[Tensor, Tensor]  # cosine and sine of the rotation at each place, (T, Q/2)


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, computed in fp32 at least; `gain`: with a learned gain, no bias."""

    def __init__(self, kind: NormKind, width: int, eps: float, gain: bool = True):
        super().__init__()
        self.kind, self.eps = kind, eps
        self.weight = Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide if self.weight is None else wide * self.weight).to(x.dtype)


class RotaryAttention(nn.Module):
    """Causal self-attention of `heads` queries over `kv_heads` keys and values, with rotary positions."""

    def __init__(
        self, heads: int, kv_heads: int, width: int, context: int, norm: NormKind, eps: float, qk: QKNorm,
        fused: bool,
    ):  # fmt: skip
        super().__init__()
        size = width // heads  # Q
        self.heads, self.kv_heads, self.qk_norm = heads, kv_heads, qk
        self.rows = (width, kv_heads * size, kv_heads * size)  # outputs: of queries, keys and values
        self.qkv = nn.Linear(width, sum(self.rows), bias=False) if fused else None
        if not fused:
            self.query, self.key, self.value = (nn.Linear(width, rows, bias=False) for rows in self.rows)
        self.projection = nn.Linear(width, width, bias=False)
        if qk in ("head", "width"):
            self.query_norm = Norm(norm, size if qk == "head" else width, eps)
            self.key_norm = Norm(norm, size if qk == "head" else kv_heads * size, eps)
        elif qk == "l2":
            # Logits of unit vectors need a temperature; it begins where a softmax over `context` tokens can be sharp.
            self.start = math.log2(max(context**2 - context, 2))
            self.temperature = Parameter(torch.empty(()))

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (self.query(x), self.key(x), self.value(x)) if self.qkv is None else self.qkv(x).split(self.rows, -1)
        if self.qk_norm == "width":
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (y.view(batch, time, -1, width // self.heads).transpose(1, 2) for y in (q, k, v))  # (B, H, T, Q)
        if self.qk_norm == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = rotate(q, turns), rotate(k, turns)
        scale = None  # 1 / sqrt(Q)
        if self.qk_norm == "l2":
            q, k, scale = F.normalize(q, dim=-1) * self.temperature.to(q.dtype), F.normalize(k, dim=-1), 1.0
        if self.kv_heads < self.heads:
            k, v = (y.repeat_interleave(self.heads // self.kv_heads, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.projection(y.transpose(1, 2).reshape(batch, time, width))


def turns_of(time: int, size: int, theta: float, device: torch.device, dtype: torch.dtype) -> Turns:
    """Return cosine and sine (T, Q/2) of the angles t theta^(-2i/Q), in fp32 at least, for all blocks of a pass."""
    wide = torch.promote_types(dtype, torch.float32)
    rates = theta ** (torch.arange(0, size, 2, device=device, dtype=wide) / -size)
    angles = torch.arange(time, device=device, dtype=wide)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turns: Turns) -> Tensor:
    """Turn the pairs (i, i + Q/2) of x (B, H, T, Q) by their angles, as transformers does."""
    cos, sin = (each.to(x.dtype) for each in turns)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class GatedMLP(nn.Module):
    """SwiGLU, down(silu(gate x) * up x), or without a gate GELU, down(gelu(up x))."""

    def __init__(self, width: int, hidden: int, gated: bool):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False) if gated else None
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    def __init__(self, attention: RotaryAttention, mlp: GatedMLP, norms: tuple[Norm, Norm]):
        super().__init__()
        self.attention_norm, self.mlp_norm = norms
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns)
        return x + self.mlp(self.mlp_norm(x))


class Llama(LanguageModel):
    """`model(tokens)` gives logits, `model(tokens, targets)` the loss.

    layers: blocks
    heads: query heads per block; each works on Q = width / heads dimensions
    kv_heads: key and value heads, each shared by heads / kv_heads query heads; null: as many as heads
    width: of the residual stream
    hidden: width of the MLP; null: 4 width
    context: longest sequence, in tokens
    vocabulary: rows of the embedding, which may be padded beyond the tokenizer's (see `padded_vocabulary`)
    tied: the embedding is the output head too
    mlp: swiglu, or gelu without a gate
    norm: rms, or layer without a bias
    norm_gain: norms of the residual stream have a learned gain
    norm_eps: under the root of a norm
    qk_norm: of queries and keys: none; head, each head's by itself; width, all heads' together; both with a gain and
        before the rotation; l2, to unit length after it, with a learned temperature for each block
    fused_qkv: queries, keys and values are one matrix, as in OLMo's code; else three, as in Llama's
    rope_theta: base of the rotation's rates
    z_loss: this multiple of log(Z)^2 per token is added to the loss for its gradient alone, Z the softmax's sum
    init_std: of every matrix's first weights
    scale_residual: init_std / sqrt(2 L) for the 2 L matrices that write to the residual stream, as in GPT-2
    init_scale: standard deviations of hidden matrices at first, as multiples of torch's default for a linear layer,
        1 / sqrt(3 inputs): of queries, keys and values; of attention's projection; of the MLP's first layers; of its
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
        kv_heads: int | None = None,
        hidden: int | None = None,
        tied: bool = False,
        mlp: Literal["swiglu", "gelu"] = "swiglu",
        norm: NormKind = "rms",
        norm_gain: bool = True,
        norm_eps: float = 1e-5,
        qk_norm: QKNorm = "none",
        fused_qkv: bool = False,
        rope_theta: float = 10000.0,
        z_loss: float = 0.0,
        init_std: float = 0.02,
        scale_residual: bool = False,
        init_scale: InitScale | None = None,
    ):
        kv_heads, hidden = heads if kv_heads is None else kv_heads, 4 * width if hidden is None else hidden
        sizes = {"layers": layers, "heads": heads, "width": width, "context": context}
        check_sizes(vocabulary, **sizes, kv_heads=kv_heads, hidden=hidden)
        check_init_scale(init_scale)
        if width % heads or width // heads % 2:
            raise ValueError(f"width must be an even multiple of heads, but {width} is not one of {heads}")
        if heads % kv_heads:
            raise ValueError(f"kv_heads must divide heads, but {kv_heads} does not divide {heads}")
        for name, number in [("norm_eps", norm_eps), ("rope_theta", rope_theta), ("init_std", init_std)]:
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be above 0, not {number}")
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"z_loss must be at least 0, not {z_loss}")
        super().__init__()
        self.heads, self.context, self.rope_theta = heads, context, rope_theta
        self.z_loss, self.init_std, self.scale_residual = z_loss, init_std, scale_residual
        self.init_scale = init_scale
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            LlamaBlock(
                RotaryAttention(heads, kv_heads, width, context, norm, norm_eps, qk_norm, fused_qkv),
                GatedMLP(width, hidden, mlp == "swiglu"),
                (Norm(norm, width, norm_eps, norm_gain), Norm(norm, width, norm_eps, norm_gain)),
            )
            for _ in range(layers)
        )
        self.norm = Norm(norm, width, norm_eps, norm_gain)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self, generator: Generator | None = None) -> None:
        """Draw matrices from N(0, init_std), smaller ones into the residual stream with `scale_residual`."""
        residual = 1 / math.sqrt(2 * len(self.blocks)) if self.scale_residual else 1.0
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1)
            elif parameter.ndim == 2:
                into = name.endswith(("projection.weight", "down.weight"))
                parameter.normal_(0, self.init_std * (residual if into else 1.0), generator=generator)
        for module in self.modules():
            if isinstance(module, RotaryAttention) and module.qk_norm == "l2":
                module.temperature.fill_(module.start)
        self.scale_hidden(generator)

    @property
    def head_weight(self) -> Tensor:
        """Return the output head's matrix (V, width)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | Losses:
        self.check_length(inputs)
        x = self.embedding(inputs)  # (B, T, width)
        turns = turns_of(inputs.size(1), x.size(2) // self.heads, self.rope_theta, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, turns)
        x = self.norm(x)
        if targets is None:
            return F.linear(x, self.head_weight)
        return Losses(*head_loss(x.flatten(0, 1), self.head_weight, targets.flatten(), self.z_loss))

    def roles(self) -> dict[Parameter, Role]:
        rows = next(module.rows for module in self.modules() if isinstance(module, RotaryAttention))
        matrices = {
            "embedding": Role("embedding"), "head": Role("head"), "qkv": Role("hidden", "qkv", rows),
            "query": Role("hidden", "qkv"), "key": Role("hidden", "qkv"), "value": Role("hidden", "qkv"),
            "projection": Role("hidden", "projection"),
            "gate": Role("hidden", "gate"), "up": Role("hidden", "up"), "down": Role("hidden", "down"),
        }  # fmt: skip
        return roles_by_module(self, matrices)

    def flops_per_token(self, context: int) -> int:
        width = self.embedding.embedding_dim
        return training_flops(self.matrix_parameters(), len(self.blocks), width, context)
