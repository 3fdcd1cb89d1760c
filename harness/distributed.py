"""The ranks of a run: one process each, started by torchrun, or just this one."""

import atexit
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.device import resolve_device

T = TypeVar("T")
BUCKET = 2**25  # bytes that one collective operation carries at most, but for a tensor that is larger


class Pending(NamedTuple):
    """A collective operation on its way.

    tensors: its result goes to these; none where it is in place.
    flat: what it works on.
    """

    tensors: Sequence[Tensor]
    flat: Tensor | None
    work: Any

    def wait(self) -> None:
        """Wait for the result (on CUDA the stream does), and put it into the tensors."""
        if self.work is None:
            return
        with lost_ranks_named():
            self.work.wait()
        if self.flat is not None and self.tensors:
            parts = self.flat.split([t.numel() for t in self.tensors])
            torch._foreach_copy_(
                list(self.tensors), [x.view(t.shape) for x, t in zip(parts, self.tensors, strict=True)]
            )


@dataclass(frozen=True)
class Ranks:
    """The number of this process among the ranks of a run. With one rank every operation does nothing."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over the ranks, in place."""
        if self.world > 1:
            for pending in [self.start_sum(bucket) for bucket in alike(tensors)]:
                pending.wait()

    def start_sum(self, tensors: Sequence[Tensor]) -> Pending:
        """Begin to add up tensors of one dtype over the ranks, as one; `wait` puts the sums in their place."""
        return self._start(tensors, dist.all_reduce)

    def start_copy(self, tensors: Sequence[Tensor], source: int) -> Pending:
        """Begin to copy tensors of one dtype from the rank `source` to the others, as one."""
        copy = functools.partial(dist.broadcast, src=source)
        pending = self._start(tensors, copy, new=source != self.rank)
        return pending._replace(tensors=[]) if source == self.rank else pending

    def _start(self, tensors: Sequence[Tensor], operation: Callable[..., Any], new: bool = False) -> Pending:
        if self.world == 1 or not tensors:
            return Pending(tensors, None, None)
        alone = len(tensors) == 1 and tensors[0].is_contiguous()
        parts = [t.detach().reshape(-1) for t in tensors]
        flat = parts[0] if alone else parts[0].new_empty(sum(map(len, parts))) if new else torch.cat(parts)
        with lost_ranks_named():
            return Pending([] if alone else tensors, flat, operation(flat, async_op=True))

    def each(self, value: T) -> list[T]:
        """Return the values of all ranks, on every rank; also a barrier. They come by pickle: no tensors on a GPU."""
        values: list[Any] = [value]
        if self.world > 1:
            values = [None] * self.world
            with lost_ranks_named():
                dist.all_gather_object(values, value, group=_patient_group())
        return values

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors over the ranks, in place."""
        self.sum_(tensors)
        if self.world > 1:
            for tensor in tensors:
                tensor.div_(self.world)

    def agree(self, value: T) -> T:
        """Return the first rank's value on every rank; also a barrier."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        with lost_ranks_named():
            dist.broadcast_object_list(values, src=0, group=_patient_group())
        return values[0]

    def first_before_others(self, call: Callable[[], T]) -> T:
        """Make a call on the first rank alone, then on the others, which find its files; returns its result."""
        if not self.first:
            self.agree(None)
        result = call()
        if self.first:
            self.agree(None)
        return result


def alike(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a sequence of tensors into buckets of one dtype each, BUCKET bytes at most where they hold several."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        more = tensor.numel() * tensor.element_size()
        if bucket and (tensor.dtype != bucket[0].dtype or size + more > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += more
    if bucket:
        yield bucket


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turn the failure of a collective operation, of which one rank has ended, into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"rank {os.environ.get('RANK')} has lost the others: one of them ended, and says why, or the network failed"
        ) from error


def join(device: str) -> tuple[Ranks, str]:
    """Join the other ranks if torchrun started this process; returns its rank and its device.

    Raises:
        ValueError: a CUDA index for several ranks: each takes the one of its local rank.
    """
    device = resolve_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(), device
    if device.startswith("cuda"):
        if ":" in device:
            raise ValueError(f"device={device} is for one rank: give device=cuda under torchrun")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # the jobs of a sweep share it
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(_leave)
    _patient_group()
    return Ranks(int(os.environ["RANK"]), world), device


@functools.cache
def _patient_group() -> Any:
    """Return the process group in which the others may wait for hours while the first prepares a corpus."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


def _leave() -> None:
    """Let go of the groups while the interpreter is still whole: gloo's threads, left alive, would abort its end."""
    _patient_group.cache_clear()
    dist.destroy_process_group()
    gc.collect()
