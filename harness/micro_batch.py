"""A micro-batch, and its part of the mean over the global batch."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """A micro-batch's part of the mean over the global batch, a scalar each.

    loss: of the mean loss, in nats per counted target.
    auxiliary: of what the model adds to the loss for its gradient alone; None where it adds nothing.
    """

    loss: Tensor
    auxiliary: Tensor | None

    @property
    def whole(self) -> Tensor:
        """Return the loss and what is added to it: this is minimized."""
        return self.loss if self.auxiliary is None else self.loss + self.auxiliary


class MicroBatch(NamedTuple):
    """The sequences of one pass, and how many targets count in the global batch that they are part of.

    inputs, targets: int64 (B, T); a negative target is not counted.
    counted: float64, a scalar: the counted targets of all micro-batches and ranks.
    """

    inputs: Tensor
    targets: Tensor
    counted: Tensor

    def mean(self, summed: Tensor) -> Tensor:
        """Turn a sum over this micro-batch's counted targets into its part of the mean over the global batch."""
        size = self.targets.numel()
        # Divided twice, as a mean over micro-batches of their means: where every target counts, its bits are kept.
        return summed / size / (self.counted / size).to(summed.dtype)

    def share(self, losses: Any) -> Share:
        """Take the part of the global mean out of what a model returns for targets: its `Losses`.

        Raises:
            TypeError: the model returns something else, a mean for one.
        """
        if not hasattr(losses, "auxiliary"):
            raise TypeError(
                f"model: for targets it must return Losses(sum, count, auxiliary), not {type(losses).__name__}"
            )
        auxiliary = None if losses.auxiliary is None else self.mean(losses.auxiliary)
        return Share(self.mean(losses.sum), auxiliary)


def count_targets(targets: Tensor) -> Tensor:
    """Count targets (B, T) that are not negative: float64, a scalar on their device, so that nothing waits for it."""
    return (targets >= 0).sum().double()


def zeros(sequences: int, context: int, device: torch.device) -> MicroBatch:
    """Make a micro-batch of zeros, to try a pass on."""
    tokens = torch.zeros(sequences, context, dtype=torch.int64, device=device)
    # The targets are a copy: of one and the same tensor the compiler makes another graph.
    return MicroBatch(tokens, tokens.clone(), count_targets(tokens))


class Total:
    """The sum of the shares of micro-batches: the mean loss so far, and what the model adds to it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.loss = torch.zeros((), device=device, dtype=dtype)
        self.auxiliary: Tensor | None = None

    def add(self, share: Share) -> None:
        self.loss += share.loss.detach()
        if share.auxiliary is not None:
            self.auxiliary = share.auxiliary.detach() + (0.0 if self.auxiliary is None else self.auxiliary)

    @property
    def tensors(self) -> list[Tensor]:
        return [self.loss] if self.auxiliary is None else [self.loss, self.auxiliary]

    @property
    def whole(self) -> Tensor:
        return Share(self.loss, self.auxiliary).whole


@dataclass
class StepRecord:
    """The results of a step's first `objective()`, as tensors on the device: nothing waits for them."""

    loss: Tensor | None = None
    auxiliary: Tensor | None = None  # what the model adds to the loss for its gradient alone; None: nothing
    norms: Tensor | None = None  # of each parameter's gradient, of those that have one, before clipping
    norm: Tensor | None = None  # of the whole gradient, before clipping
    clipped: Tensor | None = None
