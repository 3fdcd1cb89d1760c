"""Labels drawn from a model's own softmax, for the Gauss-Newton-Bartlett estimator, and the loss on them.

A label is found by inverting the cumulative distribution at one uniform number per token. In fp32 that number is a
multiple of 2^-24, so an entry of the vocabulary has its probability to 6e-8, whichever way below inverts it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conventions.targets import UNCOUNTED
from harness import device

BLOCK = 128  # entries of the vocabulary


@torch.no_grad()
def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw labels (B, T) ~ softmax(logits (B, T, V)), at uniform numbers (B, T) in [0, 1) of fp32 at least.

    A sequence at a time: never a second tensor of the logits' whole size.
    """
    labels = []
    for row, at in zip(logits, uniform[:, :, None], strict=True):  # (T, V), (T, 1)
        cumulative = row.to(at.dtype).softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(cumulative, at * cumulative[:, -1:], right=True)
        labels.append(drawn.squeeze(-1).clamp_(max=row.shape[-1] - 1))
    return torch.stack(labels)


@torch.no_grad()
def draw_by_blocks(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw the labels that `draw` does, but where a number lies within rounding of the border between two entries.

    In two stages, first a block of the vocabulary and then an entry of it: a compiler makes the first of reductions
    over the logits as they are, and no tensor of their size.
    """
    entries, wide = logits.shape[-1], uniform.dtype
    largest = logits.amax(-1, keepdim=True).to(wide)
    blocks = F.pad(logits, (0, -entries % BLOCK), value=-torch.inf).unflatten(-1, (-1, BLOCK))  # (B, T, V / 128, 128)
    mass = (blocks.to(wide) - largest[..., None]).exp().sum(-1)
    block, left = _invert(mass, uniform[..., None])
    index = block * BLOCK + torch.arange(BLOCK, device=logits.device)  # (B, T, 128)
    near = logits.gather(-1, index.clamp(max=entries - 1)).to(wide)
    entry, _ = _invert((near - largest).exp().masked_fill(index >= entries, 0), left)
    return (block * BLOCK + entry).squeeze(-1).clamp(max=entries - 1)


def _invert(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Find where in `mass` (..., n) a share (..., 1) of its sum is reached, and which share of that place's own.

    A place without mass is never reached; shares are below 1.
    """
    cumulative = mass.cumsum(-1)
    goal = share * cumulative[..., -1:]
    place = (cumulative <= goal).sum(-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    before = torch.where(place > 0, cumulative.gather(-1, (place - 1).clamp(min=0)), 0)
    return place, ((goal - before) / mass.gather(-1, place)).clamp(0, 1 - torch.finfo(mass.dtype).eps / 2)


class DrawnLoss:
    """A model's loss on labels drawn from its own softmax, summed over the targets that count.

    The model is asked for nothing but logits.
    """

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.model, self.autocast = model, autocast
        self._compiled: Callable[..., Tensor] | None = None

    def eager(self, inputs: Tensor, targets: Tensor, uniform: Tensor) -> Tensor:
        """Return the sum in nats, a scalar of uniform's dtype.

        inputs, targets: int64 (B, T); where a target is negative, no label is drawn. uniform: (B, T), in [0, 1).
        """
        with self.autocast():
            logits = self.model(inputs)
        return cross_entropy(logits, draw(logits, uniform), targets)

    def compiled(self, inputs: Tensor, targets: Tensor, uniform: Tensor) -> Tensor:
        """Compute the same as `eager` in one graph, which reads the logits in the dtype of the pass."""
        if self._compiled is None:
            self._compiled = device.compiled(_InOnePiece(self.model))
        with self.autocast():
            return self._compiled(inputs, targets, uniform)


class _InOnePiece(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, uniform: Tensor) -> Tensor:
        logits = self.model(inputs)
        return cross_entropy(logits, draw_by_blocks(logits, uniform), targets)


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Sum the loss on labels where the targets count: nats, a scalar in fp32 at least."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    labels = labels.masked_fill(targets < 0, UNCOUNTED).flatten()
    return F.cross_entropy(logits.flatten(0, 1).to(wide), labels, ignore_index=UNCOUNTED, reduction="sum")
