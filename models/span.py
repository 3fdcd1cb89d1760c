"""Finds an answer in a passage: an encoder, and for each token two logits, that the answer begins or ends there.

The loss is the mean of two cross-entropies over the tokens (Devlin et al. 2018, BERT, section 4.2).
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from conventions.targets import UNCOUNTED
from models.base import Losses, Role
from models.bert import BERT


class SpanPredictor(nn.Module):
    """`model(tokens)` gives logits (B, 2, T) of beginnings and ends, `model(tokens, targets)` the loss.

    tokens are [CLS] question [SEP] passage [SEP] and anything, which is not looked at; targets (B, 2) are places in T.

    encoder: its own heads get no gradient.
    separator: the id of [SEP].
    generator: draws the weights of the two logits, from N(0, .02).
    """

    def __init__(self, encoder: BERT, separator: int, generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.separator = encoder, separator
        self.ends = nn.Linear(encoder.embedding.weight.shape[1], 2)
        with torch.no_grad():
            self.ends.weight.normal_(0, 0.02, generator=generator)
            self.ends.bias.zero_()

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | Losses:
        separators = (inputs == self.separator).long()
        before = separators.cumsum(1) - separators
        logits = self.ends(self.encoder.encode(inputs, segment=(before == 1).long(), real=before < 2))
        logits = logits.transpose(1, 2).to(torch.promote_types(logits.dtype, torch.float32))
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="sum")
        return Losses(loss, (targets >= 0).sum())

    def roles(self) -> dict[Parameter, Role]:
        own = {"weight": Role("head"), "bias": Role("vector")}
        return {**self.encoder.roles(), **{p: own[name] for name, p in self.ends.named_parameters()}}

    def flops_per_token(self, context: int) -> int:
        return self.encoder.encoder_flops_per_token(context) + 6 * self.ends.weight.numel()
