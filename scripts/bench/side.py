"""A contender in a process of its own, with its own switches and its own memory, that answers one question at a time.

Beside a pool's worker it can be waited for until a deadline and no longer, and what goes wrong in it comes back as a
sentence.
"""

import functools
import gc
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from harness.device import peak_memory
from harness.process import die_with_parent
from scripts.bench.contenders import LOG_EVERY, Contender, Setting
from scripts.bench.parts import parts as parts_of

Make = Callable[[], Any]  # a contender, for most that is asked


class Side:
    """The process. As a context manager it is ended, whatever it is doing."""

    def __init__(self, make: Make):
        context = get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make))
        self._process.start()
        there.close()

    def ask(self, seconds: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns there. Raises TimeoutError after so many seconds, ValueError where it fails."""
        try:
            self._here.send((function, arguments))
            if not self._here.poll(None if seconds is None else max(0.0, seconds)):
                raise TimeoutError
            good, value = self._here.recv()
        except (EOFError, ConnectionError):  # reset: it left the question unread
            raise ValueError("its process ended without a word (out of memory?)") from None
        if not good:
            raise ValueError(value)
        return value

    def end(self) -> None:
        """Its memory is the others' then."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _serve(pipe: Connection, make: Make) -> None:
    global contender
    die_with_parent()  # or it would go on compiling, and hold its memory, beside the next call
    failure = None
    try:
        contender = make()
    except Exception as error:
        failure = _told(error)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, failure) if failure else (True, function(*arguments)))
        except Exception as error:  # a variant that does not run is a result too
            pipe.send((False, _told(error)))


def _told(error: Exception) -> str:
    """The first line, or the one on the memory that the compiler wrapped in its own."""
    lines = str(error).strip().splitlines()
    line = next(filter(out_of_memory, lines), next(iter(lines), ""))
    return f"{type(error).__name__}: {line}"[:300]


def out_of_memory(sentence: str) -> bool:
    """Of what a question raised: the device's, which smaller passes may do without. cuBLAS has its own words for it."""
    return any(word in sentence for word in ("OutOfMemoryError", "CUDA error: out of memory", "STATUS_ALLOC_FAILED"))


# What is asked: these run in the process.

contender: Contender


def turn(steps: int) -> float:
    """Seconds of so many updates; the memory that is free then is left to the others."""
    one = contender
    if not one.setting.device.startswith("cuda"):
        return one.turn(steps)
    one.turn(1)  # gets its memory back
    torch.cuda.reset_peak_memory_stats()
    seconds = one.turn(steps)
    global _peak
    _peak = peak_memory(one.setting.device)
    torch.cuda.empty_cache()
    return seconds


_peak: int | None = None


def about() -> dict[str, Any]:
    """What a row says beside the rate."""
    one = contender
    peak = _peak if _peak is not None else peak_memory(one.setting.device)
    setting = one.setting
    flops = one.flops_per_token or _flops_per_token(setting)
    return {
        "micro_batch": setting.micro, "peak_bytes": peak, "syncs_per_update": syncs(), "flops_per_token": flops,
        "kernels": one.kernels,
    }  # fmt: skip


def parts(rate: float) -> dict[str, float]:
    return parts_of(contender, rate)


def _flops_per_token(setting: Setting) -> int:
    """By halfstep's formula: both have the same shape."""
    matrices = 12 * setting.layers * setting.width**2 + setting.vocabulary * setting.width
    return 6 * matrices + 12 * setting.layers * setting.width * setting.context


@functools.cache
def syncs() -> int | None:
    """How often an update waits for the device, by torch's own count, its log line left out; None without CUDA."""
    one = contender
    if not one.setting.device.startswith("cuda"):
        return None
    try:
        while one.step % LOG_EVERY == 0:
            one.turn(1)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            one.turn(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        gc.collect()
        torch.cuda.empty_cache()  # as after a turn
    return sum("synchroniz" in str(each.message) for each in caught)
