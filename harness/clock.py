"""The clock: every second of a run belongs to exactly one part, and only the training parts count.

A switch from one part to another is a mark; the time between two marks belongs to the part that was on. On CUDA marks
are events on the stream, so that nothing waits for the device until the seconds are read, once per log line.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch

COUNTED = ("data", "gradient", "curvature", "optimizer")


class Clock:
    """A count of seconds by part. `running()` opens the optimizer's step, which has all time that no part takes."""

    key = "clock"

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("outside", self._now())]
        self._resume_after_compile: list[str] = []
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._compile_starts)
        callback_handler.register_end_callback(self._compile_ends)

    def close(self) -> None:
        """Stop listening to the compiler."""
        from torch._dynamo.callback import callback_handler

        with suppress(ValueError):  # torch._dynamo.reset() forgets them on its own
            callback_handler.remove_start_callback(self._compile_starts)
            callback_handler.remove_end_callback(self._compile_ends)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as that of `name`; afterwards it belongs again to the part before."""
        before = self._marks[-1][0]
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def running(self) -> AbstractContextManager[None]:
        """Count the time inside as that of an update."""
        return self.part("optimizer")

    def paused(self, name: str) -> AbstractContextManager[None]:
        """Count the time inside under `name`, and not as training: evaluation, checkpoints, logging."""
        return self.part(name)

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part since the run began; `total` sums the training parts. Waits for the device."""
        self._settle()
        counted = {name: self._seconds.get(name, 0.0) for name in COUNTED}
        rest = {name: s for name, s in self._seconds.items() if name not in (*COUNTED, "outside")}
        return {**counted, "total": sum(counted.values()), **rest}

    def state(self) -> dict[str, float]:
        self._settle()
        return dict(self._seconds)

    def restore(self, state: dict[str, float]) -> None:
        self._settle()
        self._seconds = dict(state)

    def _now(self) -> "float | torch.cuda.Event":
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _switch(self, name: str) -> None:
        self._marks.append((name, self._now()))
        if self._device.type != "cuda" and len(self._marks) > 1000:
            self._settle()

    def _settle(self) -> None:
        """Turn the marks into seconds, and start anew from now."""
        self._marks.append((self._marks[-1][0], self._now()))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for (name, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            elapsed = end - start if isinstance(start, float) else start.elapsed_time(end) / 1000  # type: ignore[operator, arg-type]
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed
        self._marks = self._marks[-1:]

    def _compile_starts(self, *_: object) -> None:
        self._resume_after_compile.append(self._marks[-1][0])
        self._switch("compile")

    def _compile_ends(self, *_: object) -> None:
        self._switch(self._resume_after_compile.pop())
