"""The memory of this machine: what a process may take of it, so that the kernel refuses before it has to kill.

Some optimizers of other packages take a hundred thousand times the parameters' bytes. Where the memory is over, the
kernel kills whichever process it likes, without a word. A process that is bounded fails in the allocation instead.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from conventions.quantity import size

RESERVE = 0.05  # of what is free: for the page tables, and for whoever else wants some
NO_MEMORY = re.compile(r"can't allocate memory(?:: you tried to allocate (\d+) bytes)?")  # torch's words on a CPU


@contextmanager
def bounded(device: str) -> Iterator[None]:
    """Let this process take what is free now and no more; several ranks of a run share it. On a CPU under Linux only.

    What is counted is data (RLIMIT_DATA), and not the files that are mapped.
    """
    free = free_bytes() if device == "cpu" else None
    if free is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    share = int((1 - RESERVE) * free) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    limit = _kilobytes(Path("/proc/self/status"), "VmData") * 1024 + share
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def free_bytes() -> int | None:
    """Return the bytes that processes can still have: the machine's, or less in a control group; None: not known."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    free = 1024 * (_kilobytes(meminfo, "MemAvailable") + _kilobytes(meminfo, "SwapFree"))
    return min([free, *_left_in_groups()])


def lacks(error: BaseException) -> str | None:
    """Say that there was too little memory, if that is what an error means; None for any other error."""
    match = NO_MEMORY.search(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
        where, more = "the GPU", f" ({asked[1]} more were asked for)" if asked else ""
    elif match or isinstance(error, MemoryError):
        where, more = "this machine", f" ({size(int(match[1]))} more were asked for)" if match and match[1] else ""
    else:
        return None
    return f"it needs more memory than {where} has free{more}: lower batch.micro, or take a smaller model"


def _left_in_groups() -> Iterator[int]:
    """Yield what each control group that this process is in still allows; the kernel may drop its cached files."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            root = Path("/sys/fs/cgroup", *(["memory"] if kinds else []))
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
            if kinds and "memory" not in kinds.split(","):
                continue
            group = root / name.lstrip("/")
            for each in [group, *group.parents]:
                with suppress(OSError, ValueError):  # max, or the root
                    limit, used = (int((each / file).read_text()) for file in names)
                    cached = re.search(r"^(?:total_)?inactive_file (\d+)", (each / "memory.stat").read_text(), re.M)
                    yield max(0, limit - used + int(cached[1] if cached else 0))
                if each == root:
                    break


def _kilobytes(file: Path, key: str) -> int:
    """Return the number behind a key of /proc/meminfo or /proc/<pid>/status; 0 where it is not there."""
    match = re.search(rf"^{key}:\s+(\d+) kB", file.read_text(), re.M)
    return int(match[1]) if match else 0
