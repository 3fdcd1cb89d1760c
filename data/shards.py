"""Reads token shards, the files that a run trains on.

A shard is 256 little-endian int32 (a magic number, a version, the number of tokens, zeros), then the tokens. Both
formats are llm.c's, so their shards read here and ours there: 16-bit tokens, which the GPT-2 speed-running community
shares, and 32-bit tokens, which llm.c writes for Llama 3. A file without a header, as nanoGPT's `train.bin`, holds
tokens from its first byte on: 16-bit ones, unless `Shard.dtype` says otherwise.
"""

import bisect
import functools
import hashlib
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Dtype = Literal["uint16", "uint32"]


class Form(NamedTuple):
    """A format of shards: what its header begins with."""

    dtype: Dtype
    magic: int
    version: int


FORMS = (Form("uint16", 20240520, 1), Form("uint32", 20240801, 7))
HEADER_BYTES = 256 * 4
LARGEST_VOCABULARY = 1 << 32  # what a uint32 can name
CHUNK_BYTES = 1 << 24
SAMPLE_BYTES = 1 << 10

# Files of other formats that people give by mistake, by their first bytes.
OTHER_FORMATS = {
    b"PAR1": "Parquet",
    b"\x93NUMPY": "NumPy's .npy",
    b"PK\x03\x04": "a zip archive or a torch file",
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"ARROW1": "Arrow",
    b"MMIDIDX": "an index of Megatron's, which its .bin lies beside",
    b"\x89HDF\r\n": "HDF5",
}


@dataclass(frozen=True)
class Shard:
    """A file of tokens. dtype: of the tokens of a file without a header (None: uint16, unless it looks wider).

    A header says itself what the tokens are, whatever dtype is.
    """

    path: Path
    dtype: Dtype | None = None


class Layout(NamedTuple):
    """The layout of a shard's file: the byte at which its tokens begin, their number, and their type."""

    offset: int
    tokens: int
    dtype: Dtype


def smallest_dtype(vocabulary: int) -> Dtype:
    """Return the narrowest dtype that holds every id below `vocabulary`."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def measure(shard: Shard) -> Layout:
    """Find the layout of a shard from its header and its size.

    Raises FileNotFoundError where there is no file; ValueError where it is cut short, is no shard, or has no header
    and tokens that look wider than its dtype.
    """
    path = shard.path
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the shards in it, as {path / '*.bin'}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    for prefix, kind in OTHER_FORMATS.items():
        if head.startswith(prefix):
            raise ValueError(f"{path} is not a token shard but {kind}")
    if not head:
        raise ValueError(f"{path} is empty")
    if _is_text(head):
        raise ValueError(f"{path} is not a token shard but text; data=local reads text")
    fields = np.frombuffer(head[:12].ljust(12, b"\0"), "<i4")
    form = next((form for form in FORMS if fields[0] == form.magic), None)
    if form is None:
        if 20200101 <= fields[0] <= 20391231 and 0 <= fields[1] < 100 and len(head) == HEADER_BYTES:
            raise ValueError(f"{path} begins with the header of another format ({fields[0]}, {fields[1]})")
        return _without_header(shard, size)
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{path} is cut short inside its header ({size} bytes)")
    if fields[1] != form.version:
        raise ValueError(f"{path} is a shard of version {fields[1]}, but only version {form.version} is read")
    width = np.dtype(form.dtype).itemsize
    if (size - HEADER_BYTES) % width:
        raise ValueError(f"{path} is cut short: {size} bytes are no whole number of {form.dtype} tokens")
    promised, held = int(fields[2]), (size - HEADER_BYTES) // width
    if promised != held:
        kind = "cut short" if promised > held else "unfinished or overwritten"
        raise ValueError(f"{path} is {kind}: its header promises {promised} tokens, the file holds {held}")
    if not held:
        raise ValueError(f"{path} holds no tokens")
    return Layout(HEADER_BYTES, held, form.dtype)


def _is_text(head: bytes) -> bool:
    """Say whether these bytes, which may end inside a character, are UTF-8 without control characters."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3 or error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode()
    return all(character in "\t\n\r\f" or (ord(character) >= 32 and character != "\x7f") for character in text)


def _without_header(shard: Shard, size: int) -> Layout:
    """Find the layout of a file that is tokens from its first byte on."""
    path, dtype = shard.path, shard.dtype or "uint16"
    width = np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(f"{path} is not a token shard: {size} bytes are no whole number of {dtype} tokens")
    if size % 8 == 0 and shard.dtype != "uint16" and _looks_wider(path, size, 4):
        raise ValueError(
            f"{path} has no header and looks like 64-bit tokens: every second 32-bit number in it is 0; write it anew "
            "with np.fromfile(path, np.int64).astype(np.uint32).tofile(...)"
        )
    if shard.dtype is None and size % 4 == 0:
        beside = _vocabulary_beside(path)
        if _looks_wider(path, size, 2) or beside > 1 << 16:
            named = beside > 1 << 16
            why = f"meta.pkl beside it has vocab_size {beside}" if named else "every second 16-bit number is 0 or small"
            raise ValueError(
                f"{path} has no header and looks like 32-bit tokens ({why}); give data.dtype=uint32, "
                "or data.dtype=uint16 if its tokens do have 16 bits"
            )
    return Layout(0, size // width, dtype)


def _looks_wider(path: Path, size: int, width: int) -> bool:
    """Say whether every second number of `width` bytes looks like the higher half of a wider one: 0 or small.

    Looks at the beginning, the middle and the end. The higher 16 bits of ids below 2^20 are below 16.
    """
    pieces = []
    with open(path, "rb") as file:
        for start in {0, max(size // 2 - SAMPLE_BYTES, 0) // 8 * 8, max(size - SAMPLE_BYTES, 0) // 8 * 8}:
            file.seek(start)
            piece = file.read(SAMPLE_BYTES)
            pieces.append(np.frombuffer(piece[: len(piece) // (2 * width) * 2 * width], f"<u{width}"))
    numbers = np.concatenate(pieces)
    low, high = numbers[0::2], numbers[1::2]
    return len(high) >= 8 and int(high.max()) < 16 and 256 * int(high.max()) < int(low.max())


def _vocabulary_beside(path: Path) -> int:
    """Return `vocab_size` from nanoGPT's meta.pkl in the same folder, 0 where there is none. No code in it is run."""
    named = False
    try:
        with open(path.with_name("meta.pkl"), "rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "MEMOIZE" or "PUT" in operation.name:
                    continue
                if named and isinstance(argument, int):
                    return argument
                named = argument == "vocab_size"
    except (OSError, ValueError, MemoryError, OverflowError):  # bytes that are no pickle announce any length
        pass
    return 0


def tokens(shard: Shard) -> np.ndarray:
    """Map the shard's tokens, (tokens,) uint16 or uint32, read-only: nothing is read before it is indexed."""
    offset, count, dtype = measure(shard)
    kind = np.dtype(dtype).newbyteorder("<")
    return np.memmap(shard.path, kind, mode="r", offset=offset, shape=(count,)).view(np.ndarray)


def inspect(shard: Shard) -> tuple[str, int]:
    """Return the SHA-256 of the whole file and the highest token id in it. It is read once, 16 MiB at a time."""
    offset, _, dtype = measure(shard)
    kind = np.dtype(dtype).newbyteorder("<")
    digest, highest = hashlib.sha256(), 0
    with open(shard.path, "rb") as file:
        digest.update(file.read(offset))
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            highest = max(highest, int(np.frombuffer(chunk, kind).max()))
    return digest.hexdigest(), highest


class Stream:
    """Reads many shards as one long sequence of tokens, in their order."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = tuple(shards)
        self.ends = list(accumulate(measure(shard).tokens for shard in self.shards))
        # An open map holds a file descriptor, and corpora have a thousand shards: keep some of them open.
        self.tokens = functools.lru_cache(maxsize=256)(tokens)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens start to start + length, (length,) uint16 or uint32; they may lie in several shards."""
        if not 0 <= start < start + length <= len(self):
            raise IndexError(f"tokens {start} to {start + length} of a stream of {len(self)}")
        pieces = []
        number = bisect.bisect_right(self.ends, start)
        while length:
            held = self.tokens(self.shards[number])
            first = start - (self.ends[number] - len(held))
            piece = held[first : first + length]
            pieces.append(piece)
            start, length, number = start + len(piece), length - len(piece), number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
