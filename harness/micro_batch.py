"""How many sequences one pass takes: `batch.micro=auto` made definite."""

import math
from collections.abc import Callable

import torch

# On a CPU larger passes buy nothing once the matrices are a few thousand rows long, and cost cache and memory.
CPU_TOKENS = 4096
# On a GPU a pass of this many fills the chip, and every larger one that does not fit costs a compilation to find out.
CUDA_TOKENS = 2**16


def divisors(number: int) -> list[int]:
    """All divisors, the largest first."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)}, reverse=True)


def resolve_micro(
    micro: int | str, sequences: int, world: int, context: int, device: str, attempt: Callable[[int, int], None]
) -> int:
    """Sequences per pass on each rank.

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
    for size in sizes:
        try:
            attempt(size, context)
            return size
        except torch.cuda.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()  # here: while the error is handled, its traceback holds what did not fit
    raise ValueError(
        f"batch.micro: not even one sequence of {context} tokens fits the memory of {device}; take a smaller model"
    )
