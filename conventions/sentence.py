"""Bad input ends in one sentence on stderr and exit code 2; HALFSTEP_TRACEBACK=1 shows the traceback."""

import argparse
import difflib
import errno
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from conventions.terminal import one_line  # which also lets every program print what its terminal can show

# By contract a ValueError's message is a whole sentence that names the key or the file, and the remedy.
BAD_INPUT = (ValueError, OSError, ModuleNotFoundError)
# What others call what we offer.
SYNONYMS = {"gpu": "cuda", "bf16": "bfloat16", "fp32": "float32", "dryrun": "offline", "dry-run": "offline"}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sentence(error: BaseException) -> str:
    """Write what went wrong, on one line, with control characters as their escapes."""
    return one_line(_words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"no space left to write {error.filename or 'the files of this run'}: free some, "
            "or give another run_dir, then go on with resume=true"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror.lower()}"
    return bare(error)


def bare(error: BaseException) -> str:
    """Return what an exception says. A KeyError says a key alone, and an assertion nothing: then, what that means."""
    where = "HALFSTEP_TRACEBACK=1 shows where"
    if isinstance(error, KeyError):
        return f"it looked for {error}, which is not there ({where})"
    return str(error) or f"{type(error).__name__}, without a word on its cause ({where})"


def on_first_rank() -> bool:
    """Return whether this process speaks for all: torchrun numbers them in RANK, and the first does."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a sentence of this program on stderr, on one line."""
    print(f"halfstep: {one_line(text)}", file=sys.stderr, flush=True)


def complain(text: str) -> NoReturn:
    """End with that sentence on stderr and exit code 2.

    Where torchrun started several ranks on this machine, only the first that ends speaks. The others would say the
    same, or that they have lost the first.
    """
    with _turn() as first:
        if first:
            say(text)
    raise SystemExit(2)


class Arguments(argparse.ArgumentParser):
    """A parser of a command line that refuses it in one sentence, and does not print its usage."""

    remedy = "--help lists what may be given"

    @classmethod
    def of(cls, program: str, about: str | None, whole: bool = False) -> "Arguments":
        """Return the parser of `python -m PROGRAM`; --help shows the docstring's first line, or the whole of it."""
        text = (about or "") if whole else (about or "").partition("\n")[0]
        return cls(prog=f"python -m {program}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; {self.remedy}")


@contextmanager
def _turn() -> Iterator[bool]:
    """Hold back the other ranks of this machine meanwhile, and yield whether this is the first turn.

    The ranks share the folder in which torchrun looks for their errors. The turn of a rank that is killed in it does
    not count.
    """
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE")
    place = Path(errors).parent.parent if errors else None
    if place is None or not place.is_dir():
        yield True
        return
    with open(place / "halfstep", "a") as turns:
        fcntl.flock(turns, fcntl.LOCK_EX)
        yield os.fstat(turns.fileno()).st_size == 0
        turns.write("had\n")


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn bad input, met anywhere inside, into its sentence and exit code 2."""
    try:
        yield
    except BAD_INPUT as error:
        if os.environ.get("HALFSTEP_TRACEBACK") == "1":
            raise
        complain(sentence(error))


@contextmanager
def cut_short() -> Iterator[None]:
    """Let whoever reads the output stop reading it: `| head`, say."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more


def nearest(word: str, names: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """Return a did-you-mean for the end of a sentence: the nearest names, or all of them, or those `listed`."""
    names = sorted(names)
    close = [name for name in names if name in (word.lower(), SYNONYMS.get(word.lower()))]
    close = close or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = names if listed is None else sorted(listed)
    return f"choose from {', '.join(shown)}" if shown else "there is none to choose from"
