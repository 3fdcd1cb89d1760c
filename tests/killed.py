"""Kill a run before its n-th change to the disk, and what resumes it before its n-th, and resume that to the end.

    python -m tests.killed FOLDER FIRST EVERY key=value ...

for n = FIRST, FIRST + EVERY, ... until a run ends before it could be killed. Each leaves FOLDER/<n>/. The processes are
forked from one that has imported everything and computed nothing, so that each costs what it computes.
"""

import builtins
import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (an optimizer would, at length, in every child)

from harness import run_folder
from tests.command import composed, trained

CHANGES = ("replace", "fsync", "mkdir", "rmdir", "unlink")


def dying(fatal: int) -> None:
    """Let this process be killed before its change number `fatal`; a row is cut in the middle."""
    done = 0

    def counted(function: Callable[..., Any], before_dying: Callable[..., Any] = lambda *_, **__: None) -> Any:
        def change(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            done += 1
            if done == fatal:
                before_dying(*arguments, **keywords)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return change

    write, open_file = run_folder._write, builtins.open
    truncate = counted(lambda: None)  # a file that is opened to be written is empty for a moment

    def opened(path: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        file = open_file(path, mode, *arguments, **keywords)
        if "w" in mode:
            truncate()
        return file

    builtins.open = io.open = opened
    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    run_folder._write = counted(write, lambda path, mode, text, *_, **__: write(path, mode, text[: len(text) // 2]))


def child(*arguments: str, run_dir: str, fatal: int = 0) -> int:
    """The exit code of the run in a forked process; -9 where it was killed."""
    process = os.fork()
    if process == 0:
        code = 1
        with suppress(Exception):
            dying(fatal)
            code = int(trained(*arguments, run_dir=run_dir, resume=True) != "finished")
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(folder: Path, first: int, every: int, *arguments: str) -> None:
    fatal = first
    composed(*arguments)  # once for all
    gc.collect()
    gc.freeze()
    while True:
        where = str(folder / str(fatal))
        codes = [child(*arguments, run_dir=where, fatal=n) for n in (fatal, fatal, 0)]
        assert codes in ([-9, -9, 0], [-9, 0, 0], [0, 0, 0]), codes
        if codes[0] == 0:
            break
        fatal += every


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
