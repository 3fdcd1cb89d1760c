"""The ranks of a run: one process each, started by torchrun, or just this one."""

import atexit
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.device import resolve_device

T = TypeVar("T")


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
            with self._others():
                for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()

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
        with self._others():
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

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Turn the failure of a collective operation, of which one rank has ended, into a sentence."""
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                f"rank {self.rank} has lost the others: one of them ended, and says why, or the network failed"
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
