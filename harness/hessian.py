"""Products of the loss's Hessian with vectors: the gradient, differentiated once more."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.flops import count
from harness.micro_batch import MicroBatch, Share, Total, count_targets

Grads = Sequence[Tensor | None]


class Hessian:
    """The Hessian of a model's mean loss in its parameters, a micro-batch at a time.

    The model is the eager one, its attention by the math kernel: fused attention has no double backward, and neither
    has a compiled model.
    """

    def __init__(
        self, model: nn.Module, params: list[nn.Parameter], autocast: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.model, self.params, self.autocast = model, params, autocast
        self._flops: dict[torch.Size, tuple[int, int]] = {}

    def gradient(self, batch: MicroBatch) -> tuple[Share, Grads]:
        """Return the micro-batch's part of the mean loss, and its gradient with the graph that `products` needs."""
        with sdpa_kernel(SDPBackend.MATH), self.autocast():
            share = batch.share(self.model(batch.inputs, batch.targets))
        return share, torch.autograd.grad(share.whole, self.params, create_graph=True, allow_unused=True)

    def leave(self, batches: Iterable[MicroBatch], total: Total, taken: Callable[[], None]) -> None:
        """Leave the gradient of all micro-batches in `.grad` with its graph, and add their losses to `total`.

        The graph holds the activations of every micro-batch: cutting the batch saves no memory here.

        Args:
            taken: called whenever somebody takes a product of the Hessian from these gradients.
        """
        sums: list[Tensor | None] = [None] * len(self.params)
        for batch in batches:
            share, grads = self.gradient(batch)
            total.add(share)
            sums = [g if s is None else s if g is None else s + g for s, g in zip(sums, grads, strict=True)]
        for p, g in zip(self.params, sums, strict=True):
            p.grad = None if g is None else g.clone()  # clipped in place: the graph keeps what it was
        first = next((p.grad for p in self.params if p.grad is not None), None)
        if first is not None:
            first.register_hook(lambda _: taken())

    def products(self, grads: Grads, v: Sequence[Tensor]) -> list[Tensor]:
        """Return H v from a gradient, whose graph is used up."""
        used = [(g, u) for g, u in zip(grads, v, strict=True) if g is not None and g.requires_grad]
        outputs = torch.autograd.grad(
            [g for g, _ in used], self.params, [u for _, u in used], allow_unused=True, materialize_grads=True
        )
        return list(outputs)

    def flops(self, inputs: Tensor, targets: Tensor, v: Sequence[Tensor]) -> tuple[int, int]:
        """Return the FLOPs of the gradient and of the products, counted on a first micro-batch of this shape."""
        if inputs.shape not in self._flops:
            batch = MicroBatch(inputs, targets, count_targets(targets))
            gradient = count(lambda: self.gradient(batch))
            both = count(lambda: self.products(self.gradient(batch)[1], v))
            self._flops[inputs.shape] = gradient, both - gradient
        return self._flops[inputs.shape]
