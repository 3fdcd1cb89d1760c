"""The gradient is summed over the ranks, in buckets that travel while the backward pass goes on, and clipped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from harness.distributed import Pending, Ranks, alike


class GradientSum:
    """The sum of every `.grad` over the ranks, in place; with one rank it does nothing.

    A backward pass comes to the parameters from the last to the first, and so the buckets are filled. Every rank sends
    them in that order, whatever order its own pass has, since a collective operation needs all ranks at the same one.
    """

    def __init__(self, params: Sequence[Parameter], ranks: Ranks) -> None:
        self.ranks = ranks
        self._buckets = list(alike(list(reversed(params))))
        self._bucket_of = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[int] = []  # of each bucket, while a pass is watched
        self._pending: list[Pending] = []  # one for each bucket that is on its way
        if ranks.world > 1:
            for p in self._bucket_of:
                p.register_post_accumulate_grad_hook(self._arrived)

    @contextmanager
    def watching(self, last: bool) -> Iterator[None]:
        """Send the buckets during the backward pass inside, if it is the last before `finish`."""
        self._missing = [len(bucket) for bucket in self._buckets] if last else []
        try:
            yield
        finally:
            self._missing = []

    def finish(self) -> None:
        """Send what has not been sent, a bucket with parameters that got no gradient for one, and wait for the sums."""
        while len(self._pending) < len(self._buckets):
            self._send()
        pending, self._pending = self._pending, []
        for each in pending:
            each.wait()

    def _arrived(self, p: Tensor) -> None:
        """Take note of a gradient, as a hook that autograd calls once it is whole."""
        if not self._missing:
            return
        self._missing[self._bucket_of[p]] -= 1
        while len(self._pending) < len(self._buckets) and not self._missing[len(self._pending)]:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._pending)]
        self._pending.append(self.ranks.start_sum([p.grad for p in bucket if p.grad is not None]))


def clip_gradient(params: Sequence[Parameter], limit: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Clip the gradient in `.grad` to a 2-norm of `limit`; None leaves it alone.

    Returns:
        The norms of its parts by parameter, of the whole, and whether it was clipped: tensors, so that nothing waits.

    Raises:
        ValueError: no parameter has a gradient.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        raise ValueError("model: its loss reaches none of its parameters, so there is no gradient to step along")
    norms = torch.stack(torch._foreach_norm(grads))
    norm = torch.linalg.vector_norm(norms)
    if limit is None:
        return norms, norm, torch.zeros_like(norm)
    nn.utils.clip_grads_with_norm_(params, limit, norm)
    return norms, norm, (norm > limit).to(norm.dtype)
