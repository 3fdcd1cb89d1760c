"""Writes the shards of a split, and goes on where a kill stopped it."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.shards import FORMS, HEADER_BYTES, Dtype, Shard, measure

SHARD_TOKENS = 100_000_000  # 200 or 400 MB a shard, FineWeb's habit


class Writer:
    """Writes one split as shards of SHARD_TOKENS, and goes on where a killed one stopped.

    A shard's header promises 0 tokens until the shard is whole: nobody takes a growing one for finished.
    `tokens` is how many of the split's tokens earlier runs made durable: nothing is known of what lies beyond
    them on the disk, and it is cut off. `dtype` is what the shards hold.

    Raises ValueError where the disk holds less than the tokens of the earlier runs.
    """

    def __init__(self, folder: Path, split: str, tokens: int = 0, dtype: Dtype = "uint16"):
        self.folder, self.split, self.tokens = folder, split, tokens
        self.form = next(form for form in FORMS if form.dtype == dtype)
        self.kind = np.dtype(dtype).newbyteorder("<")
        self.file: BinaryIO | None = None
        kept, part = divmod(tokens, SHARD_TOKENS)
        for path in sorted(folder.glob(f"{split}_*.bin")):
            if path not in {self.path(shard) for shard in range(kept + bool(part))}:
                path.unlink()
        for shard in range(kept):
            if measure(Shard(self.path(shard)))[1:] != (SHARD_TOKENS, dtype):
                raise ValueError(f"{self.path(shard)} is not the shard that was written before")
        if part:
            size = HEADER_BYTES + self.kind.itemsize * part
            if not self.path(kept).is_file() or self.path(kept).stat().st_size < size:
                raise ValueError(f"{self.path(kept)} holds less than was written before")
            os.truncate(self.path(kept), size)
            self.file = open(self.path(kept), "r+b")  # noqa: SIM115  (closed by finish)
            self._head(0)

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.split}_{shard:06d}.bin"

    def write(self, values: np.ndarray) -> None:
        """Append token ids, (n,) integers that `dtype` holds."""
        while len(values):
            shard, held = divmod(self.tokens, SHARD_TOKENS)
            if self.file is None:
                self.file = open(self.path(shard), "w+b")  # noqa: SIM115  (closed by finish)
                self._head(0)
            part, values = values[: SHARD_TOKENS - held], values[SHARD_TOKENS - held :]
            self.file.write(part.astype(self.kind).tobytes())
            self.tokens += len(part)
            if self.tokens % SHARD_TOKENS == 0:
                self.finish()

    def sync(self) -> None:
        """Make every token written so far durable."""
        if self.file:
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self) -> list[Shard]:
        """Close the shard that is open, if any; return all of them."""
        if self.file:
            self._head((self.tokens - 1) % SHARD_TOKENS + 1)
            self.sync()
            self.file.close()
            self.file = None
        return [Shard(self.path(shard)) for shard in range(-(-self.tokens // SHARD_TOKENS))]

    def _head(self, count: int) -> None:
        assert self.file is not None
        header = np.zeros(256, "<i4")
        header[:3] = self.form.magic, self.form.version, count
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.seek(0, os.SEEK_END)
