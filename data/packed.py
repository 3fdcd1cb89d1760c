"""Decompresses files while they are read: gzip, bzip2, xz and Zstandard, each in one part or many.

Nothing is skipped in silence: a file that is empty, cut short, or holds something else after a part is refused.
"""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
CHUNK_BYTES = 1 << 18
BUFFER_BYTES = 1 << 20


def unpack(path: Path, raw: BinaryIO) -> io.BufferedReader:
    """Return a reader of the open file `raw` that decompresses it as the name of `path` says.

    Reading them raises EOFError, zlib.error, lzma.LZMAError, or an OSError without errno, where they are damaged.
    """
    suffix = path.suffix.lower()
    stream: Any = raw
    if suffix in SUFFIXES and not path.stat().st_size:
        raise EOFError("it is empty")
    if suffix == ".gz":
        stream = gzip.GzipFile(fileobj=raw)
    elif suffix == ".bz2":
        stream = CompressedParts(raw, bz2.BZ2Decompressor)
    elif suffix == ".xz":
        stream = CompressedParts(raw, lzma.LZMADecompressor)
    elif suffix == ".zst":
        # Not the package zstandard: it takes a file that is cut short for a whole one.
        import pyarrow

        stream = pyarrow.CompressedInputStream(raw, "zstd")
    return io.BufferedReader(cast(io.RawIOBase, stream), BUFFER_BYTES)


class CompressedParts(io.RawIOBase):
    """Reads the parts of a file one after the other; zeros after a part are padding.

    bz2.open and lzma.open end in silence where something else follows a part, and leave out whatever comes after it.
    """

    def __init__(self, raw: BinaryIO, open_part: Callable[[], Any]):
        self.raw, self.open_part = raw, open_part
        self.part: Any = None  # a decompressor
        self.packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.part is None or self.part.eof:
                self.packed = self.part.unused_data.lstrip(b"\0") if self.part else b""
                while not self.packed:
                    chunk = self.raw.read(CHUNK_BYTES)
                    if not chunk:
                        return 0
                    self.packed = chunk.lstrip(b"\0") if self.part else chunk
                self.part = self.open_part()
            elif self.part.needs_input:
                self.packed = self.raw.read(CHUNK_BYTES)
                if not self.packed:
                    raise EOFError("it ends inside a part")
            plain = self.part.decompress(self.packed, len(buffer))
            self.packed = b""
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
