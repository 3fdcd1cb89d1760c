"""Makes the shards of a corpus: in parallel, in bounded memory, once per machine, and on from where a kill stopped it.

One thread reads and writes, the others tokenize (tiktoken releases the interpreter's lock). Results are written in
the order in which the text was read, so the shards are the same bytes for any number of threads. Every few seconds
what has been written is made durable, and progress.json records how far it reaches: the next start cuts off whatever
lies beyond that and goes on from the document after it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from conventions.json_text import parse_json
from conventions.paths import expanded
from conventions.sentence import DISK_FULL
from data.dataset import LOCK, PROGRESS, Dataset, Splits, reopen, seal, write_json
from data.progress import Progress
from data.shards import Dtype, Shard
from data.writer import Writer

DIR = os.environ.get("HALFSTEP_DATA") or "~/.cache/halfstep"  # where prepared corpora are kept; also for an empty dir
FORMAT = 1  # raise it when the same recipe comes to give other tokens: old folders are then left alone
DURABLE_EVERY = 5.0  # seconds of work that a kill may cost


class Item(NamedTuple):
    """A piece of work: what `encode` takes, and where to begin again once its tokens are written."""

    work: Any
    after: Any  # JSON
    done: float | None  # share of the corpus, where it is known


class Halves(NamedTuple):
    """The tokens of a piece of work, for each split."""

    train: np.ndarray  # (n,) uint16 or uint32
    val: np.ndarray


class Recipe(Protocol):
    """A recipe that makes a corpus: where it is kept, what decides its tokens, and what writes its shards."""

    @property
    def dir(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...  # JSON: whatever decides the tokens
    def build(self, folder: Path, progress: Progress) -> Splits: ...


def prepared(name: str, recipe: Recipe, quiet: bool = False) -> Dataset:
    """Open the recipe's dataset, and make it first where it is missing; other processes wait for the one that does."""
    marks = json.dumps([FORMAT, recipe.identity], sort_keys=True)
    root = expanded(recipe.dir or DIR, "data.dir", "HALFSTEP_DATA").absolute()
    folder = root / f"{name}-{hashlib.sha256(marks.encode()).hexdigest()[:8]}"
    if dataset := reopen(folder):
        return dataset
    try:
        with Progress(name, quiet) as progress, locked(folder, progress):
            if dataset := reopen(folder):
                return dataset
            progress.say(f"preparing {name} in {folder}")
            dataset = seal(folder, name, recipe.identity, recipe.build(folder, progress))
            (folder / PROGRESS).unlink(missing_ok=True)
            progress.say(f"{name}: {dataset.train_tokens:,} training and {dataset.val_tokens:,} validation tokens")
            return dataset
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(
            f"no disk space is left for {folder}; free some and run again, and it goes on from where it stopped, "
            "or choose another data.dir"
        ) from None


@contextlib.contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Let one process in at a time. The kernel frees the lock of a process that dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "w")  # noqa: SIM115  (the lock lasts as long as it is open)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise OSError(f"data.dir: {folder} cannot be written ({error.strerror}); choose another") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another process that prepares {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(
    folder: Path,
    items: Callable[[Any], Iterable[Item]],
    encode: Callable[[Any], Halves],
    progress: Progress,
    limit: int | None = None,
    dtype: Dtype = "uint16",
) -> tuple[list[Shard], list[Shard]]:
    """Write the shards of the training and of the validation split.

    items(after): the pieces of work after the position `after` (None: all). encode: a piece's tokens, which `dtype`
    holds; it runs in several threads. limit: training tokens after which to stop.
    """
    after, train, val = _state(folder, dtype)
    durable = time.monotonic()
    waiting: deque[tuple[Item, Future[Halves]]] = deque()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def settle() -> None:
        nonlocal durable
        item, future = waiting.popleft()
        halves = future.result()
        train.write(halves.train if limit is None else halves.train[: limit - train.tokens])
        val.write(halves.val)
        progress.update(item.done if limit is None else train.tokens / limit, train.tokens + val.tokens)
        if time.monotonic() - durable > DURABLE_EVERY:
            train.sync()
            val.sync()
            state = {"after": item.after, "train": train.tokens, "val": val.tokens}
            write_json(folder / PROGRESS, {"state": state, "sha256": _digest(state)})
            durable = time.monotonic()

    pool = ThreadPoolExecutor(threads, "tokenize")
    try:
        for item in items(after):
            if limit is not None and train.tokens >= limit:
                break
            waiting.append((item, pool.submit(encode, item.work)))
            if len(waiting) > 4 * threads:  # bounds the memory: text in wait, and tokens not yet written
                settle()
        while waiting and (limit is None or train.tokens < limit):
            settle()
    finally:
        pool.shutdown(cancel_futures=True)
    return train.finish(), val.finish()


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _state(folder: Path, dtype: Dtype) -> tuple[Any, Writer, Writer]:
    """Return the place where an earlier run stopped (None: none did), and writers that go on from there."""
    try:
        record = parse_json((folder / PROGRESS).read_text(encoding="utf-8"))
        state = record["state"]
        if record["sha256"] == _digest(state):
            train, val = (Writer(folder, split, state[split], dtype) for split in ("train", "val"))
            return state["after"], train, val
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None, Writer(folder, "train", 0, dtype), Writer(folder, "val", 0, dtype)
