"""BERT: an encoder that sees the whole sequence and predicts the tokens that are masked in it, without dropout.

Post-LayerNorm blocks, learned positions, exact GELU, biases everywhere. The output head works on the predicted
positions alone, and its matrix is the embedding. Next-sentence prediction, where it is wanted, adds to the gradient and
is no part of the loss.

Devlin et al. 2018, "BERT" (arXiv 1810.04805).
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from conventions.masking import EXTRA_TOKENS, NEXT, RANDOM, Masking
from conventions.targets import UNCOUNTED
from models.base import InitScale, LanguageModel, Losses, Role, check_init_scale, check_sizes, roles_by_module
from models.head import head_loss

EPS = 1e-12


class EncoderAttention(nn.Module):
    """Self-attention in which every position sees every other."""

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (
            layer(x).view(batch, time, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (B, H, T, Q) each
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.projection(attended.transpose(1, 2).reshape(batch, time, width))


class EncoderBlock(nn.Module):
    def __init__(self, heads: int, width: int, hidden: int):
        super().__init__()
        self.attention, self.attention_norm = EncoderAttention(heads, width), nn.LayerNorm(width, EPS)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mlp_norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.attention(x, seen))
        return self.mlp_norm(x + self.down(F.gelu(self.up(x))))


class BERT(LanguageModel):
    """`model(tokens)` gives logits at every position, `model(tokens, targets)` the loss at those with a target.

    layers: blocks
    heads: attention heads per block
    width: of the residual stream
    hidden: width of the MLP; null: 4 width
    context: longest sequence, in tokens; the rows of the position table
    vocabulary: rows of the embedding, with three for [MASK], [CLS] and [SEP]
    mask_share: of the tokens of a sequence, predicted: 0.15
    max_predictions: largest number of predictions in a sequence; null: no bound
    next_sentence: sequences are [CLS] A [SEP] B [SEP], and the model tells whether B follows A in the text
    init_scale: standard deviations of hidden matrices at first, as multiples of torch's default for a linear layer,
        1 / sqrt(3 inputs): of queries, keys and values; of attention's projection,
        and of the layers after the blocks; of the MLP's first layer; of its second; null: as `initialize` has them
    """

    causal = False
    extra_tokens = EXTRA_TOKENS

    def __init__(
        self,
        layers: int,
        heads: int,
        width: int,
        context: int,
        vocabulary: int,
        hidden: int | None = None,
        mask_share: float = 0.15,
        max_predictions: int | None = None,
        next_sentence: bool = False,
        init_scale: InitScale | None = None,
    ):
        hidden = 4 * width if hidden is None else hidden
        sizes = {"layers": layers, "heads": heads, "width": width, "hidden": hidden, "context": context}
        check_sizes(vocabulary, **sizes, max_predictions=max_predictions)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, but {width} is not one of {heads}")
        check_init_scale(init_scale)
        if not 0 < mask_share <= 1:
            raise ValueError(f"mask_share must be above 0 and at most 1, not {mask_share}")
        masking = Masking(mask_share, max_predictions, next_sentence)
        masking.check(context)
        super().__init__()
        self.context, self.init_scale = context, init_scale
        self.masking: Masking = masking
        self.embedding = nn.Embedding(vocabulary, width)  # the head too
        self.positions = nn.Embedding(context, width)
        self.segments = nn.Embedding(2, width)  # A and B
        self.embedding_norm = nn.LayerNorm(width, EPS)
        self.blocks = nn.ModuleList(EncoderBlock(heads, width, hidden) for _ in range(layers))
        self.transform, self.transform_norm = nn.Linear(width, width), nn.LayerNorm(width, EPS)
        self.head_bias = Parameter(torch.empty(vocabulary))
        self.pooler = nn.Linear(width, width) if next_sentence else None
        self.follows = nn.Linear(width, 2) if next_sentence else None
        self.initialize()

    @torch.no_grad()
    def initialize(self, generator: Generator | None = None) -> None:
        """Draw every matrix from N(0, .02), as the authors do; biases are 0, gains 1."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=generator)
        self.scale_hidden(generator)

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | Losses:
        x = self.encode(inputs)
        if targets is None:
            return F.linear(self._transformed(x), self.embedding.weight, self.head_bias)
        rows, wanted = self._predicted(x, targets)
        loss, count, _ = head_loss(self._transformed(rows), self.embedding.weight, wanted, bias=self.head_bias)
        return Losses(loss, count, self._next_sentence_loss(x[:, 0], targets))

    def encode(self, inputs: Tensor, segment: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """Return the last block's output (B, T, width).

        Args:
            segment: 0 or 1 for each token, (B, T); None: as in training, by its place.
            real: whether each token (B, T) is text, which alone is attended to; None: all of them are.

        Raises:
            ValueError: T exceeds the context.
        """
        self.check_length(inputs)
        segment = self._segment(inputs) if segment is None else segment
        x = self.embedding(inputs) + self.positions.weight[: inputs.size(1)] + self.segments(segment)
        x = self.embedding_norm(x)
        for block in self.blocks:
            x = block(x) if real is None else block(x, real[:, None, None])
        return x

    def _segment(self, inputs: Tensor) -> Tensor:
        """Return 0 for tokens of [CLS] A [SEP] and 1 for those of B [SEP], (T,); all 0 without next sentences."""
        time = inputs.size(1)
        second = Masking.halves(time)[0] + 2 if self.masking.next_sentence else time
        return (torch.arange(time, device=inputs.device) >= second).long()

    def _predicted(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of x (N, width) that have a target, and their targets (N,)."""
        if not torch.compiler.is_compiling():
            counted = targets >= 0
            return x[counted], targets[counted]
        # A compiled graph has fixed shapes: as many rows of each sequence as the batches have targets.
        number = min(self.masking.predictions(targets.size(1)), targets.size(1))
        wanted, places = targets.topk(number, dim=1)
        rows = x.gather(1, places[:, :, None].expand(-1, -1, x.size(2)))
        return rows.flatten(0, 1), wanted.masked_fill(wanted < 0, UNCOUNTED).flatten()

    def _transformed(self, x: Tensor) -> Tensor:
        return self.transform_norm(F.gelu(self.transform(x)))

    def _next_sentence_loss(self, first: Tensor, targets: Tensor) -> Tensor | None:
        """Return the mean loss of next-sentence prediction per predicted token, summed over these; None without it.

        first: the output at [CLS], (B, width). The authors add the two means; a sum over predicted tokens of which each
        sequence has the same number is the same.
        """
        if self.pooler is None or self.follows is None:
            return None
        label = targets[:, 0]
        labels = torch.where(label == NEXT, 0, torch.where(label == RANDOM, 1, UNCOUNTED))
        logits = self.follows(torch.tanh(self.pooler(first)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, labels, ignore_index=UNCOUNTED, reduction="none")
        return (losses * (targets >= 0).sum(1)).sum()

    def roles(self) -> dict[Parameter, Role]:
        matrices = {
            "embedding": Role("embedding"), "positions": Role("positions"), "segments": Role("positions"),
            "query": Role("hidden", "qkv"), "key": Role("hidden", "qkv"), "value": Role("hidden", "qkv"),
            "projection": Role("hidden", "projection"), "up": Role("hidden", "up"), "down": Role("hidden", "down"),
            "transform": Role("hidden", "projection"), "pooler": Role("hidden", "projection"), "follows": Role("head"),
        }  # fmt: skip
        return roles_by_module(self, matrices)

    def matrix_parameters(self) -> int:
        """Return N: entries of every matrix in a matrix product, the tied head once."""
        looked_up = self.positions.weight.numel() + self.segments.weight.numel()
        return sum(p.numel() for p in self.parameters() if p.ndim == 2) - looked_up

    def flops_per_token(self, context: int) -> int:
        """Count forward and backward, 6 N + 12 L d T + 6 p (d^2 + d V) + 6 (d^2 + 2 d) / T.

        N: of the blocks' matrices; p: the share of predicted tokens, at which alone the head works; the last term is
        next-sentence prediction's, once in a sequence.
        """
        return round(self._flops_per_token(context, self.masking.predictions(context) / context))

    def sampled_flops_per_token(self, context: int) -> int:
        """Count the same for a pass that needs logits at every token, as drawing labels from them does."""
        return round(self._flops_per_token(context, 1.0, next_sentence=False))

    def encoder_flops_per_token(self, context: int) -> int:
        """Count the same for the blocks alone, without the head."""
        return round(self._flops_per_token(context, 0.0, next_sentence=False))

    def _flops_per_token(self, context: int, share: float, next_sentence: bool = True) -> float:
        vocabulary, width = self.embedding.weight.shape
        blocks = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        head = width**2 + width * vocabulary
        pair = (width**2 + 2 * width) / context if self.pooler is not None and next_sentence else 0
        return 6 * blocks + 12 * len(self.blocks) * width * context + 6 * share * head + 6 * pair
