"""The search for how many sequences one pass takes: `batch.micro=auto` becomes a number."""

import gc
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from harness.clock import Clock
from harness.device import reset_peak_memory
from harness.distributed import Ranks

# On a CPU larger passes buy nothing once the matrices are a few thousand rows long, and cost cache and memory.
CPU_TOKENS = 4096
# On a GPU a pass of this many fills the chip, and every larger one that does not fit costs a compilation to find out.
CUDA_TOKENS = 2**16
FRAGMENTED = 16  # one in so many bytes of a GPU's memory is left free in trials


def divisors(number: int) -> list[int]:
    """Return all divisors, the largest first."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)}, reverse=True)


def resolve_micro(
    micro: int | str, sequences: int, world: int, context: int, device: str, attempt: Callable[[int, int], None]
) -> int:
    """Return the sequences per pass on each rank.

    Args:
        sequences: in the global batch.
        attempt: makes one training pass of (sequences, context) tokens; on CUDA the largest that fits is taken, up to
            CUDA_TOKENS.

    Raises:
        ValueError: the batch does not divide over the ranks or the micro-batches, or not even one sequence fits.
    """
    if sequences % world:
        raise ValueError(
            f"batch.tokens makes {sequences} sequences of {context}, which do not divide over {world} ranks"
        )
    local = sequences // world
    if micro != "auto":
        if local % int(micro):
            near = next(d for d in divisors(local) if d <= max(1, int(micro)))
            raise ValueError(
                f"batch.micro={micro} does not divide the {local} sequences of one rank: give {near} or auto"
            )
        return int(micro)
    most = CUDA_TOKENS if device.startswith("cuda") else CPU_TOKENS
    sizes = [d for d in divisors(local) if d == 1 or d * context <= most]
    if not device.startswith("cuda"):
        return sizes[0]
    if size := largest_that_fits(sizes, lambda size: attempt(size, context)):
        return size
    raise ValueError(
        f"batch.micro: not even one sequence of {context} tokens fits the memory of {device}; take a smaller model"
    )


def largest_that_fits(sizes: Iterable[int], attempt: Callable[[int], None]) -> int | None:
    """Return the first size whose attempt the memory of the CUDA device holds; None where it holds none."""
    for size in sizes:
        try:
            attempt(size)
            return size
        except torch.cuda.OutOfMemoryError:
            pass
        # Here: while the error is handled, its traceback holds what did not fit.
        gc.collect()
        torch.cuda.empty_cache()
    return None


class PassSizes:
    """Sequences per pass for the curvature, by kind of pass, where the memory may hold fewer than of a training pass.

    A product with the Hessian keeps the graph of an eager gradient, and attention's whole squares; GPT-2 125M has room
    for 64 sequences in a training pass on 80 GB, and for 16 of those. What fits is found by trying, on a CUDA device,
    at the first pass of its kind; a CPU takes as many as in a training pass.

    reserve: bytes to leave free in trials, for the optimizer's state: it comes after the first pass.
    by_kind: the sizes, which go into checkpoints. A run that goes on would find another size where another process
        shares the card, and add up its micro-batches in another order.
    """

    key = "sizes"

    def __init__(self, params: Sequence[Tensor], ranks: Ranks, clock: Clock, reserve: int) -> None:
        self.params, self.ranks, self.clock, self.reserve = params, ranks, clock, reserve
        self.by_kind: dict[str, int] = {}

    def of(self, kind: str, micro: int, sequences: int, attempt: Callable[[int], None]) -> int:
        """Return `micro`, or less where that does not fit. The trials are off the clock, as compilation is.

        Args:
            sequences: that there are: a pass cannot take more.
            attempt: makes a pass of so many, for nothing.

        Raises:
            ValueError: not even one sequence fits.
        """

        def with_room(size: int) -> None:
            later = self.room()
            attempt(size)
            del later

        if not limited(self.params[0].device):
            return micro
        if kind not in self.by_kind:
            with self.clock.paused("compile"):
                sizes = sorted({min(size, sequences) for size in divisors(micro)}, reverse=True)
                size = self.ranks.agree(largest_that_fits(sizes, with_room))
                reset_peak_memory(str(self.params[0].device))  # what did not fit is no part of the run
            if size is None:
                raise ValueError(
                    f"optimizer: its passes for the curvature do not fit the memory of {self.params[0].device}, not "
                    "even with one sequence; take a smaller model, or another optimizer"
                )
            self.by_kind[kind] = size
        return min(micro, self.by_kind[kind])

    def state(self) -> dict[str, int]:
        return {"ranks": self.ranks.world, **self.by_kind}

    def restore(self, state: dict[str, int]) -> None:
        """Take up sizes that as many ranks found (older checkpoints do not say how many did); others find them anew."""
        sizes = dict(state)
        if sizes.pop("ranks", self.ranks.world) == self.ranks.world:
            self.by_kind |= sizes

    def room(self) -> list[Tensor]:
        """Hold memory in a trial for what comes later: the optimizer's state, gradients, and gaps between tensors."""
        device = self.params[0].device
        if not limited(device):
            return []
        gradients = [torch.empty_like(p) for p in self.params if p.grad is None]
        return [*gradients, torch.empty(self.reserve + fragmented_bytes(device), dtype=torch.uint8, device=device)]


def fragmented_bytes(device: torch.device) -> int:
    """Return the bytes to leave free for gaps between tensors, useless to the allocator: 5.7 GB of 86 with SOAP."""
    return torch.cuda.get_device_properties(device).total_memory // FRAGMENTED if device.type == "cuda" else 0


def limited(device: torch.device) -> bool:
    """Tell whether a pass that is too large fails for lack of memory, and takes nothing else down."""
    return device.type == "cuda"
