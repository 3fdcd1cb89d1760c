"""Token shards: the files a run reads.

A shard is 256 little-endian int32 (20240520, 1, number of tokens, zeros), then the tokens as uint16: the
format that llm.c and the GPT-2 speed-running community share, so their shards read here and ours there.
nanoGPT's `train.bin`, which is uint16 from the first byte on, reads as well.
"""

import bisect
import functools
import hashlib
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
MAGIC_32_BIT = 20240801  # llm.c's Llama 3 shards: uint32 tokens, which this format has no room for
SHARD_TOKENS = 100_000_000  # 200 MB a shard, FineWeb's habit
LARGEST_VOCABULARY = 1 << 16  # what a uint16 can name
CHUNK_BYTES = 1 << 24

# What people hand over by mistake, by its first bytes.
FOREIGN = {
    b"PAR1": "Parquet",
    b"\x93NUMPY": "NumPy's .npy",
    b"PK\x03\x04": "a zip archive or a torch file",
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"ARROW1": "Arrow",
}


def measure(path: Path) -> tuple[int, int]:
    """Byte offset of the first token, and the number of tokens.

    Raises FileNotFoundError where there is no file, ValueError where it is short or is no shard.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    for prefix, kind in FOREIGN.items():
        if head.startswith(prefix):
            raise ValueError(f"{path} is not a token shard but {kind}")
    if not head:
        raise ValueError(f"{path} is empty")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        raise ValueError(f"{path} is not a token shard but text")
    if len(head) < 4 or size % 2:
        raise ValueError(f"{path} is not a token shard: {size} bytes are no whole number of uint16 tokens")
    fields = np.frombuffer(head[: len(head) // 4 * 4], "<i4")
    if fields[0] == MAGIC_32_BIT:
        raise ValueError(f"{path} holds 32-bit tokens; only 16-bit shards are read")
    if fields[0] != MAGIC:
        return 0, size // 2
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{path} is cut short inside its header ({size} bytes)")
    if fields[1] != VERSION:
        raise ValueError(f"{path} is a shard of version {fields[1]}, but only version {VERSION} is read")
    promised, held = int(fields[2]), (size - HEADER_BYTES) // 2
    if promised != held:
        kind = "cut short" if promised > held else "unfinished or overwritten"
        raise ValueError(f"{path} is {kind}: its header promises {promised} tokens, the file holds {held}")
    if not held:
        raise ValueError(f"{path} holds no tokens")
    return HEADER_BYTES, held


def tokens(path: Path) -> np.ndarray:
    """The shard's tokens, (tokens,) uint16, mapped read-only: nothing is read before it is indexed."""
    offset, count = measure(path)
    return np.memmap(path, "<u2", mode="r", offset=offset, shape=(count,)).view(np.ndarray)


def inspect(path: Path) -> tuple[str, int]:
    """SHA-256 of the whole file, and the highest token id in it. Reads it once, 16 MiB at a time."""
    offset, _ = measure(path)
    digest, highest = hashlib.sha256(), 0
    with open(path, "rb") as file:
        digest.update(file.read(offset))
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            highest = max(highest, int(np.frombuffer(chunk, "<u2").max()))
    return digest.hexdigest(), highest


class Stream:
    """Many shards read as one long sequence of tokens, in the order given."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = tuple(paths)
        self.ends = list(accumulate(measure(path)[1] for path in self.paths))
        # An open map holds a file descriptor, and corpora have a thousand shards: keep some of them open.
        self.tokens = functools.lru_cache(maxsize=256)(tokens)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens start to start + length, (length,) uint16; they may lie in several shards."""
        if not 0 <= start < start + length <= len(self):
            raise IndexError(f"tokens {start} to {start + length} of a stream of {len(self)}")
        pieces = []
        shard = bisect.bisect_right(self.ends, start)
        while length:
            held = self.tokens(self.paths[shard])
            first = start - (self.ends[shard] - len(held))
            piece = held[first : first + length]
            pieces.append(piece)
            start, length, shard = start + len(piece), length - len(piece), shard + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Writer:
    """Writes one split as shards of SHARD_TOKENS, and goes on where a killed one stopped.

    A shard's header promises 0 tokens until the shard is whole: nobody takes a growing one for finished.
    `tokens` is how many of the split's tokens earlier runs made durable: whatever lies beyond them on the
    disk is of unknown worth and is cut off.
    """

    def __init__(self, folder: Path, split: str, tokens: int = 0):
        self.folder, self.split, self.tokens = folder, split, tokens
        self.file: BinaryIO | None = None
        kept, part = divmod(tokens, SHARD_TOKENS)
        for path in sorted(folder.glob(f"{split}_*.bin")):
            if path not in {self.path(shard) for shard in range(kept + bool(part))}:
                path.unlink()
        for shard in range(kept):
            if measure(self.path(shard))[1] != SHARD_TOKENS:
                raise ValueError(f"{self.path(shard)} is not the shard that was written before")
        if part:
            size = HEADER_BYTES + 2 * part
            if not self.path(kept).is_file() or self.path(kept).stat().st_size < size:
                raise ValueError(f"{self.path(kept)} holds less than was written before")
            os.truncate(self.path(kept), size)
            self.file = open(self.path(kept), "r+b")  # noqa: SIM115  (closed by finish)
            self._head(0)

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.split}_{shard:06d}.bin"

    def write(self, values: np.ndarray) -> None:
        """Append token ids, (n,) uint16."""
        while len(values):
            shard, held = divmod(self.tokens, SHARD_TOKENS)
            if self.file is None:
                self.file = open(self.path(shard), "w+b")  # noqa: SIM115  (closed by finish)
                self._head(0)
            part, values = values[: SHARD_TOKENS - held], values[SHARD_TOKENS - held :]
            self.file.write(part.astype("<u2").tobytes())
            self.tokens += len(part)
            if self.tokens % SHARD_TOKENS == 0:
                self.finish()

    def sync(self) -> None:
        """Make every token written so far durable."""
        if self.file:
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self) -> list[Path]:
        """Close the shard that is open, if any; return the paths of all."""
        if self.file:
            self._head((self.tokens - 1) % SHARD_TOKENS + 1)
            self.sync()
            self.file.close()
            self.file = None
        return [self.path(shard) for shard in range(-(-self.tokens // SHARD_TOKENS))]

    def _head(self, count: int) -> None:
        assert self.file is not None
        header = np.zeros(256, "<i4")
        header[:3] = MAGIC, VERSION, count
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.seek(0, os.SEEK_END)
