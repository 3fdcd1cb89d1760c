"""An objective is the one door between an optimizer and the model. Every pass through it is timed and charged."""

import copy
import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from conventions.targets import UNCOUNTED
from harness.clock import Clock
from harness.device import seed_everything
from harness.distributed import Ranks
from harness.flops import Ledger
from harness.gradient import GradientSum, clip_gradient
from harness.hessian import Hessian
from harness.labels import DrawnLoss
from harness.micro_batch import MicroBatch, StepRecord, Total, count_targets, zeros
from harness.pass_sizes import PassSizes
from harness.sharding import Sharding

Batch = tuple[Tensor, Tensor]


class TimedObjective:
    """The mean loss over a global batch, all micro-batches and ranks; see optimizers.base.Objective.

    It is in nats per counted target, with what the model adds to it for its gradient alone.

    Args:
        model: inputs (B, T), targets (B, T) -> Losses(sum, count, auxiliary); inputs alone -> logits (B, T, V).
        sequences: in the global batch, over all ranks.
        micro: sequences per pass; of the passes for the curvature, at most.
        flops_per_token: of one forward and backward pass.
        sampled_flops_per_token: of one that needs the logits of every token; None: the same.
        forward: the model, compiled perhaps; the loss on drawn labels is compiled then, too.
        dtype: of the passes; float32 runs them without autocast.
        grad_clip: largest 2-norm of the gradient that `__call__` leaves; None: no clipping.
        reserve: bytes that passes must leave free on a CUDA device; None: the state to come, as the sharding has it.
        sharding: of the optimizer; None: every rank steps on all parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sequences: int,
        micro: int = 1,
        flops_per_token: int,
        sampled_flops_per_token: int | None = None,
        clock: Clock,
        ledger: Ledger,
        seed: int = 0,
        ranks: Ranks | None = None,
        forward: Callable[..., Any] | None = None,
        dtype: torch.dtype = torch.float32,
        grad_clip: float | None = None,
        reserve: int | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        self.model = model
        self.forward = model if forward is None else forward
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.device = self.params[0].device
        self._wide = torch.promote_types(self.params[0].dtype, torch.float32)
        self.sequences = sequences
        self.micro = micro
        self.flops_per_token = flops_per_token
        self.sampled_flops_per_token = sampled_flops_per_token or flops_per_token
        self.clock = clock
        self.ledger = ledger
        self.seed = seed
        self.ranks = ranks or Ranks()
        self.sharding = sharding or Sharding(None, [], self.ranks, "")
        self.gradient_sum = GradientSum(self.params, self.ranks)
        self.dtype = dtype
        self.grad_clip = grad_clip
        self.step = 0
        self.record = StepRecord()
        self._batch: Batch | None = None
        self._counted: Tensor | None = None
        self.hessian = Hessian(model, self.params, self._autocast)
        self.drawn = DrawnLoss(model, self._autocast)
        later = self.sharding.state_bytes if reserve is None else reserve
        self.sizes = PassSizes(self.params, self.ranks, clock, later)

    @property
    def num_tokens(self) -> int:
        """Return the tokens of the global batch."""
        assert self._batch is not None, "bind a batch first"
        return self.sequences * self._batch[0].shape[1]

    @property
    def num_targets(self) -> Tensor:
        """Return the counted targets of the global batch, a scalar; the first call after `bind` sums over the ranks."""
        assert self._batch is not None, "bind a batch first"
        if self._counted is None:
            self._counted = count_targets(self._batch[1])
            self.ranks.sum_([self._counted])
        return self._counted

    def bind(self, step: int, batch: Batch) -> "TimedObjective":
        """Take up the batch of a step: this rank's sequences, tokens and targets (B / ranks, T)."""
        self.step = step
        self.record = StepRecord()
        self._batch, self._counted = batch, None
        # An external optimizer may draw from the global generators: its draws too depend on (seed, step) alone.
        seed_everything(self._entropy("global"))
        return self

    @torch.enable_grad()
    def __call__(self) -> Tensor:
        first = self.record.loss is None
        with self.clock.part("gradient" if first else "curvature"):
            for p in self.params:
                p.grad = None
            total = Total(self.device, self._wide)
            batches = list(self._passes())
            for batch in batches:
                with self._autocast():
                    losses = self.forward(batch.inputs, batch.targets)
                share = batch.share(losses)
                with self.gradient_sum.watching(last=batch is batches[-1]):
                    share.whole.backward()
                total.add(share)
            self._finish(total)
        return total.whole

    @torch.enable_grad()
    def gradient_and_hvp(self, v: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        part = "gradient" if self.record.loss is None else "curvature"
        for p in self.params:
            p.grad = None
        total = Total(self.device, self._wide)
        totals = [torch.zeros_like(p) for p in self.params]
        for batch in self._passes(self._hessian_size(v)):
            with self.clock.part(part):
                share, grads = self.hessian.gradient(batch)
                for p, g in zip(self.params, grads, strict=True):
                    if g is not None:
                        p.grad = g.detach().clone() if p.grad is None else p.grad.add_(g.detach())
                total.add(share)
            with self.clock.part("curvature"):
                torch._foreach_add_(totals, self.hessian.products(grads, v))
        with self.clock.part("curvature"):
            self.ranks.sum_(totals)
        with self.clock.part(part):
            self._finish(total)
        self.ledger.charge("curvature", self._hessian_flops(v)[1])
        return total.whole, totals

    @torch.enable_grad()
    def gradient_with_graph(self) -> Tensor:
        if self.ranks.world > 1:
            raise ValueError("optimizer: it differentiates the gradient by itself, which works on one rank alone")
        flops = self._hessian_flops(self.params)[1]
        with self.clock.part("gradient" if self.record.loss is None else "curvature"):
            total = Total(self.device, self._wide)
            self.hessian.leave(self._passes(), total, lambda: self.ledger.charge("curvature", flops))
            torch.no_grad()(self._finish)(total)
        return total.whole

    @torch.no_grad()
    def loss(self) -> Tensor:
        with self.clock.part("curvature"):
            total = Total(self.device, self._wide)
            for batch in self._passes():
                with self._autocast():
                    losses = self.forward(batch.inputs, batch.targets)
                total.add(batch.share(losses))
            self.ranks.sum_(total.tensors)
            self._charge_passes("curvature", passes=1 / 3)  # backward costs twice the forward pass
        return total.whole

    @torch.enable_grad()
    def sampled_grads(self) -> list[Tensor]:
        with self.clock.part("curvature"):
            totals = [torch.zeros_like(p) for p in self.params]
            size = self._size("sampled", lambda batch: self._drawn_grads(batch, first=0))
            for i, batch in enumerate(self._passes(size)):
                torch._foreach_add_(totals, self._drawn_grads(batch, first=i * size))
            self.ranks.sum_(totals)
            share = self.sampled_flops_per_token / self.flops_per_token
            self._charge_passes("curvature", passes=share)
        return totals

    @torch.enable_grad()
    def hvp(self, v: Sequence[Tensor]) -> list[Tensor]:
        with self.clock.part("curvature"):
            totals = [torch.zeros_like(p) for p in self.params]
            for batch in self._passes(self._hessian_size(v)):
                grads = self.hessian.gradient(batch)[1]
                torch._foreach_add_(totals, self.hessian.products(grads, v))
            self.ranks.sum_(totals)
        self.ledger.charge("curvature", sum(self._hessian_flops(v)))
        return totals

    def narrow(self, share: float) -> "TimedObjective":
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        assert self._batch is not None, "bind a batch first"
        narrowed = copy.copy(self)
        narrowed.sequences = max(1, round(share * self.sequences))
        # Sequence i of the global batch is this rank's where i mod world = rank.
        mine = len(range(self.ranks.rank, narrowed.sequences, self.ranks.world))
        inputs, targets = (part[: max(mine, 1)] for part in self._batch)
        # A rank left without any still makes a pass, none of whose targets count: the collectives need every rank.
        narrowed._batch = inputs, targets if mine else torch.full_like(targets, UNCOUNTED)
        narrowed._counted = None
        return narrowed

    def generator(self, key: Hashable) -> Generator:
        return Generator(self.device).manual_seed(self._entropy(key))

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        self.ranks.mean_(tensors)

    def join_(self, tensor: Tensor) -> None:
        self.sharding.join_(tensor)

    def charge(self, flops: int) -> None:
        self.ledger.charge("optimizer", flops)

    def attempt(self, micro: int, context: int) -> None:
        """Try one training pass on `micro` sequences of zeros, for nothing but to see that the memory holds it."""
        later = self.sizes.room()
        batch = zeros(micro, context, self.device)
        with self._autocast():
            losses = self.forward(batch.inputs, batch.targets)
        batch.share(losses).whole.backward()
        del later
        for p in self.params:
            p.grad = None

    def _passes(self, size: int | None = None) -> Iterator[MicroBatch]:
        """Yield the micro-batches of this rank."""
        assert self._batch is not None, "bind a batch first"
        inputs, targets = self._batch
        size = size or self.micro
        for i in range(0, len(inputs), size):
            yield MicroBatch(inputs[i : i + size], targets[i : i + size], self.num_targets)

    def _size(self, kind: str, attempt: Callable[[MicroBatch], Any]) -> int:
        """Return the sequences of a pass for the curvature, found by attempts on micro-batches of zeros."""
        assert self._batch is not None, "bind a batch first"
        sequences, context = self._batch[0].shape

        def on_zeros(size: int) -> None:
            attempt(zeros(size, context, self.device))

        return self.sizes.of(kind, self.micro, sequences, on_zeros)

    def _hessian_size(self, v: Sequence[Tensor]) -> int:
        def attempt(batch: MicroBatch) -> None:
            self.hessian.products(self.hessian.gradient(batch)[1], v)

        return self._size("hessian", attempt)

    def _drawn_grads(self, batch: MicroBatch, first: int) -> list[Tensor]:
        drawn_loss = self.drawn.eager if self.forward is self.model else self.drawn.compiled
        loss = batch.mean(drawn_loss(batch.inputs, batch.targets, self._uniform(batch.inputs, first)))
        return list(torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True))

    def _finish(self, total: Total) -> None:
        """Reduce and clip the gradient in `.grad`, and charge for the pass that made it."""
        self.gradient_sum.finish()
        self.ranks.sum_(total.tensors)
        norms, norm, clipped = clip_gradient(self.params, self.grad_clip)
        first = self.record.loss is None
        self._charge_passes("model" if first else "curvature")
        if first:
            self.record = StepRecord(total.loss, total.auxiliary, norms, norm, clipped)

    def _hessian_flops(self, v: Sequence[Tensor]) -> tuple[int, int]:
        """Return the FLOPs over the batch, of the gradient and of the products."""
        assert self._batch is not None
        inputs, targets = (t[:1] for t in self._batch)
        with self.clock.paused("counting"):
            gradient, products = self.hessian.flops(inputs, targets, v)
        return self.sequences * gradient, self.sequences * products

    def _uniform(self, inputs: Tensor, first: int) -> Tensor:
        """Draw a number in [0, 1) for each token (B, T); those of a sequence depend on (seed, step, sequence) alone."""
        rows = []
        for i in range(first, first + len(inputs)):
            generator = self.generator(("labels", i * self.ranks.world + self.ranks.rank))
            rows.append(torch.rand(inputs.shape[1], generator=generator, device=self.device, dtype=self._wide))
        return torch.stack(rows)

    def _charge_passes(self, kind: str, passes: float = 1.0) -> None:
        self.ledger.charge(kind, round(passes * self.flops_per_token * self.num_tokens))

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _entropy(self, key: Hashable) -> int:
        digest = hashlib.sha256(repr((self.seed, self.step, key)).encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
