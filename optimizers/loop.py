"""A loop of anybody's has no Objective: it leaves gradients in `.grad`, or hands an ordinary closure to `step`.

Both are dressed here as the Objective that the optimizers ask. Under torch.distributed the loop is taken to average its
gradients over the ranks, as DistributedDataParallel and FSDP do.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor

MISSING = (
    "estimate of the curvature yet: a loop without an Objective calls update_curvature(...) before step, whenever "
    "curvature_due is true"
)
UNCOUNTED = -100  # a target that is left out of the mean, as in torch's cross_entropy


def world() -> int:
    """Return the number of ranks of torch.distributed; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_(tensors: Sequence[Tensor]) -> None:
    """Add up tensors over the ranks, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


class Loop:
    """The gradient of one update, in a loop without an Objective.

    Args:
        closure: makes the gradient and returns the loss; None: the gradient is in `.grad`.
        group: the optimizer's first, which counts the `updates` of such a loop.
        loss_scale: what the loss was multiplied with before `backward`, and its gradients divided by since then.

    Attributes:
        step: updates made before this one.
        unit: what brings a gradient of this rank's scaled loss to its part of the mean over all ranks.
        num_tokens: of the batch, over all ranks, where hooks have counted them.
    """

    def __init__(
        self, closure: Callable[[], Any] | None = None, group: dict[str, Any] | None = None, loss_scale: float = 1.0
    ) -> None:
        self.closure = closure
        self._group = {} if group is None else group
        self.step: int = self._group.get("updates", 0)
        self.unit = 1 / (loss_scale * world())
        self.num_tokens = 0

    @torch.enable_grad()
    def __call__(self) -> Any:
        """Return the closure's loss, or None where the gradient is made already, and count the update."""
        loss = self.closure() if self.closure else None
        self._group["updates"] = self.step + 1
        return loss

    def generator(self, key: Hashable) -> Generator:
        """Return a generator that depends on the step and the key alone, as that of a run with the seed 0 does."""
        digest = sha256(repr((0, self.step, key)).encode()).digest()
        parameters = self._group.get("params") or [torch.empty(0)]
        return Generator(parameters[0].device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors over the ranks, in place."""
        sum_(tensors)
        for tensor in tensors:
            tensor.div_(world())

    def join_(self, tensor: Tensor) -> None:
        """Leave the tensor as it is: every rank of such a loop steps on all parameters."""

    def charge(self, flops: int) -> None:
        """Count nothing: nobody asks."""


class Curvature(Loop):
    """Holds what a loop hands over to estimate the curvature: logits or losses, one tensor for each micro-batch.

    Args:
        params: what the optimizer steps on.
        tensors: logits or losses with their graph; an iterator gives them one at a time, so that one graph is kept.
        targets: for each tensor of logits, int64, whose places of -100 draw no label; None: every place draws one.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        tensors: Tensor | Iterable[Tensor],
        targets: Tensor | Iterable[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.params = list(params)
        self._tensors = [tensors] if isinstance(tensors, Tensor) else tensors
        self._targets = [targets] if isinstance(targets, Tensor) else targets
        self._seed: int | None = None
        self.num_targets = torch.zeros((), dtype=torch.float64, device=self.params[0].device)

    def narrow(self, share: float) -> "Curvature":
        """Return itself: the share of the batch is what the loop chose to hand over."""
        return self

    def generator(self, key: Hashable) -> Generator:
        """Return a generator, the same on every rank for the same key; torch.manual_seed decides what it draws."""
        if self._seed is None:
            seed = torch.randint(2**31, (1,))
            if world() > 1:
                seed = seed.to(self.params[0].device)
                dist.broadcast(seed, src=0)
            self._seed = int(seed)
        return Generator(self.params[0].device).manual_seed(self._seed * 2**32 + crc32(repr(key).encode()))

    @torch.enable_grad()
    def sampled_grads(self) -> list[Tensor]:
        """Return the gradients of the mean loss on labels drawn from softmax(logits), over micro-batches and ranks."""
        totals = [torch.zeros_like(p) for p in self.params]
        rank = dist.get_rank() if world() > 1 else 0
        for i, (logits, targets) in enumerate(self._batches()):
            flat = logits.flatten(0, -2)
            flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
            draw = self.generator(("labels", rank, i))
            labels = torch.multinomial(flat.detach().softmax(-1), 1, generator=draw).squeeze(-1)
            if targets is not None:
                labels = labels.masked_fill(targets.flatten() == UNCOUNTED, UNCOUNTED)
            self.num_tokens += labels.numel() * world()
            self.num_targets += (labels != UNCOUNTED).sum()
            loss = F.cross_entropy(flat, labels, ignore_index=UNCOUNTED, reduction="sum")
            torch._foreach_add_(totals, self._grads([loss], None))
        sum_([self.num_targets, *totals])
        return [total / self.num_targets.to(total.dtype) for total in totals]

    @torch.enable_grad()
    def hvp(self, v: Sequence[Tensor]) -> list[Tensor]:
        """Return H v, with H the Hessian of the sum of the losses, averaged over the ranks.

        Raises:
            ValueError: an operation behind the loss has no second derivative.
        """
        totals, trained = [torch.zeros_like(p) for p in self.params], [p for p in self.params if p.requires_grad]
        along = [u for p, u in zip(self.params, v, strict=True) if p.requires_grad]
        for loss, _ in self._batches():
            try:
                grads = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
                used = [(g, u) for g, u in zip(grads, along, strict=True) if g is not None and g.requires_grad]
                torch._foreach_add_(totals, self._grads([g for g, _ in used], [u for _, u in used]))
            except RuntimeError as error:
                raise ValueError(
                    f"the loss has no second derivative ({error}): run the model without torch.compile, and its "
                    "attention by the math kernel, in torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
                ) from error
            self.num_tokens = 1  # an estimate was made; H v needs no count
        self.mean_(totals)
        return totals

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        targets = None if self._targets is None else iter(self._targets)
        for tensor in self._tensors:
            if not tensor.requires_grad:
                raise ValueError("update_curvature needs a tensor with its graph: compute it outside torch.no_grad()")
            yield tensor, None if targets is None else next(targets)

    def _grads(self, outputs: Sequence[Tensor], along: Sequence[Tensor] | None) -> list[Tensor]:
        """Differentiate in each parameter, 0 where it is frozen or unused; the graph stays, for the loop's backward."""
        trained = [p for p in self.params if p.requires_grad]
        grads = iter(torch.autograd.grad(outputs, trained, along, retain_graph=True, allow_unused=True))
        taken = [next(grads) if p.requires_grad else None for p in self.params]
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, taken, strict=True)]
