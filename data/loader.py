"""Makes batches out of shards. `batch(step)` is a pure function of (seed, step, rank): no state to save.

The stream of tokens is cut into windows of `context` tokens, each with the one token after it, its last
target. Every epoch visits each window once, in an order that only (seed, epoch) decides. Sequence i of a
global batch is number step * sequences + i of that endless order and lives on rank i mod world: one rank or
eight draw the same global batch, and a run that was killed goes on with the batch it would have had.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from conventions.masking import Masking
from data.masking import MaskedWindows
from data.shards import Shard, Stream

Batch = tuple[torch.Tensor, torch.Tensor]
Cut = Callable[[Stream, Sequence[int], Sequence[Sequence[int]], int], Batch]
EVALUATION = (2**32 - 1,)  # the key of what is drawn for an evaluation: the same in every run


def cut(stream: Stream, windows: Sequence[int], keys: Sequence[Sequence[int]], context: int) -> Batch:
    """Return inputs, and targets one token later, each (len(windows), context) int64 in host memory.

    keys: for a cut that draws random numbers, as a masked one does; this one draws none.
    """
    block = np.empty((len(windows), context + 1), np.int64)
    for row, window in zip(block, windows, strict=True):
        row[:] = stream.read(window * context, context + 1)
    held = torch.from_numpy(block)
    return held[:, :-1].contiguous(), held[:, 1:].contiguous()


def cut_for(masking: Masking | None, vocabulary: int, special: tuple[int, int, int]) -> Cut:
    """Return what makes batches of windows: of the next token for None, else for masked prediction.

    vocabulary: distinct tokens of the data. special: the ids of [MASK], [CLS] and [SEP].
    """
    return cut if masking is None else MaskedWindows(masking, vocabulary, special)


class Loader:
    """Training batches: `batch(step)` is (inputs, targets), each (sequences / world, context) int64.

    shards: the training split. sequences: in the global batch, over all ranks and micro-batches.
    seed: 0 to 2^32 - 1. cut: makes a batch of windows.
    Raises ValueError where the batch does not divide over the ranks or the split is too small for one batch.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        context: int,
        sequences: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        cut: Cut = cut,
    ):
        if context < 1:
            raise ValueError(f"context must be at least 1, not {context}")
        if sequences < 1:
            raise ValueError(f"batch.tokens must hold at least one sequence of {context} tokens")
        if sequences % world:
            raise ValueError(f"batch.tokens: {sequences} sequences do not divide over {world} ranks")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be between 0 and {2**32 - 1}, not {seed}")
        self.stream, self.cut = Stream(shards), cut
        self.context, self.sequences, self.seed = context, sequences, seed
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.windows = (len(self.stream) - 1) // context
        if self.windows < sequences:
            raise ValueError(
                f"batch.tokens: a batch of {sequences} sequences of {context} tokens needs "
                f"{sequences * context + 1} tokens, but the training split holds {len(self.stream)}; "
                "lower batch.tokens or context"
            )
        self.orders: dict[int, np.ndarray] = {}
        self.ahead = ThreadPoolExecutor(1, "loader") if self.device.type == "cuda" else None
        self.pending: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        if self.ahead is None:
            return self.assemble(step)
        # The thread reads and pins the next batch while the device computes on this one. What it reads is always
        # assemble(step) of some step, so a wrong guess costs time and changes nothing.
        guessed, future = self.pending or (None, None)
        if future is None or guessed != step:
            future = self.ahead.submit(self.assemble, step)
        inputs, targets = future.result()
        self.pending = (step + 1, self.ahead.submit(self.assemble, step + 1))
        return inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def assemble(self, step: int) -> Batch:
        """Return this rank's share of the batch, in host memory (pinned on CUDA)."""
        first = step * self.sequences
        windows, keys = [], []
        for number in range(first + self.rank, first + self.sequences, self.world):
            epoch, index = divmod(number, self.windows)
            windows.append(int(self.order(epoch)[index]))
            keys.append((self.seed, epoch))
        inputs, targets = self.cut(self.stream, windows, keys, self.context)
        return (inputs.pin_memory(), targets.pin_memory()) if self.device.type == "cuda" else (inputs, targets)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's windows, (windows,) int64. A batch can span two epochs, so two are kept."""
        if epoch not in self.orders:
            self.orders = {held: order for held, order in self.orders.items() if abs(held - epoch) == 1}
            # RandomState, not default_rng: NEP 19 freezes its stream, so the order outlives numpy's versions.
            self.orders[epoch] = np.random.RandomState([self.seed, epoch]).permutation(self.windows)
        return self.orders[epoch]


@dataclass(frozen=True)
class EvaluationBatches:
    """Fixed batches, read anew each time they are iterated: an evaluation holds one of them in memory."""

    stream: Stream
    windows: Sequence[int]
    context: int
    micro: int
    device: torch.device
    cut: Cut = cut

    def __len__(self) -> int:
        return -(-len(self.windows) // self.micro)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.windows), self.micro):
            windows = self.windows[first : first + self.micro]
            inputs, targets = self.cut(self.stream, windows, [EVALUATION] * len(windows), self.context)
            yield inputs.to(self.device), targets.to(self.device)


def evaluation_batches(
    shards: Sequence[Shard],
    context: int,
    tokens: int | None,
    micro: int,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "cpu",
    cut: Cut = cut,
) -> EvaluationBatches:
    """Return batches of up to `micro` sequences, always the same, from windows spread evenly over the split.

    shards: the validation split. tokens: targets in all, over the ranks (None: all there are). Window j is on
    rank j mod world. Iterating gives (inputs, targets), each (at most micro, context) int64 on `device`.
    Raises ValueError where the split holds fewer tokens than asked for.
    """
    stream = Stream(shards)
    windows = (len(stream) - 1) // context
    asked = windows if tokens is None else tokens // context
    if windows < 1:
        raise ValueError(
            f"context: the validation split of {len(stream)} tokens is under one window of {context} tokens; "
            "lower context or take a larger corpus"
        )
    if asked < 1:
        raise ValueError(f"eval.tokens is {tokens}, under one window of {context} tokens; raise eval.tokens")
    if asked > windows:
        raise ValueError(
            f"eval.tokens asks for {asked} windows of {context} tokens, but the validation split of "
            f"{len(stream)} tokens has {windows}; set eval.tokens to at most {windows * context}"
        )
    mine = [number * windows // asked for number in range(rank, asked, world)]
    return EvaluationBatches(stream, mine, context, micro, torch.device(device), cut)
