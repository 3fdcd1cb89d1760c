"""One attempt at a run: its folder's lock, the status it ends with, and what it sets for the whole process."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Literal

import torch

from conventions.sentence import BAD_INPUT, sentence
from harness.memory import bounded, lacks
from harness.run_folder import RunFolder
from harness.tracker import Tracker


class Attempt(ExitStack):
    """A context that an attempt at a run lives in. However it ends, its status is recorded and its lock released.

    Torch's settings come back for the next run of a sweep; callbacks undo what else was set.

    Args:
        folder: of the run.
        device: on which it runs; a CPU's memory is bounded.
        external: the class of an external optimizer, which errors then name.

    Attributes:
        status: "failed" until `end` gives another.
    """

    def __init__(self, folder: RunFolder, device: str = "cpu", external: str | None = None) -> None:
        super().__init__()
        self.folder, self.device, self.external = folder, device, external
        self.status = "failed"

    def __enter__(self) -> "Attempt":
        gc.collect()  # in a sweep: cycles keep the weights of the run before on the device
        self.callback(self.folder.close)
        self.enter_context(settings_kept())
        self.enter_context(bounded(self.device))
        return self

    def end(self, status: str, diagnosis: str | None) -> str:
        """Record that the run ended by itself: finished, or diverged with a diagnosis. Returns the status."""
        self.status = status
        self.folder.finish(status, diagnosis)
        return status

    def watch(self, trackers: list[Tracker]) -> None:
        """Close these trackers with the status at the end, before anything else is undone."""
        for each in reversed(trackers):  # callbacks run from the last to the first
            self.callback(lambda tracker: tracker.close(self.status), each)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        failure = self._named(error) if isinstance(error, Exception) else None
        if failure:
            with suppress(OSError):  # a full disk may not take this either
                self.folder.fail(sentence(failure) if isinstance(failure, BAD_INPUT) else repr(failure))
        super().__exit__(kind, error, traceback)
        if failure and failure is not error:
            raise failure
        return False

    def _named(self, error: Exception) -> Exception:
        """Return the error, or one that names its cause: memory, or an external class, which may raise anything."""
        if why := lacks(error):
            class_of = f"optimizer._target_={self.external}: " if self.external else ""
            return ValueError(f"{class_of}{why}, or another optimizer; the run is stopped before the kernel kills it")
        if not self.external or isinstance(error, BAD_INPUT):
            return error
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return ValueError(
            f"optimizer._target_={self.external} cannot run here ({cause}); HALFSTEP_TRACEBACK=1 shows where"
        )


class Threads:
    """The number of torch's threads. It decides the bits, so a run that goes on takes up the number it began with."""

    key = "threads"

    def state(self) -> int:
        return torch.get_num_threads()

    def restore(self, state: int) -> None:
        torch.set_num_threads(state)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put torch's threads and kernels back at the end: see Threads, and kernels.choose_kernels."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    fused = torch.backends.cuda.flash_sdp_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.enable_flash_sdp(fused)
