"""Reads the rows of a person's own files: JSON lines, plain text and Parquet; the first two compressed, too.

Every row carries the place after it, where reading can begin again: a byte offset into the uncompressed file
with the number of lines before it, or a row of a Parquet table. What is broken is named by file and line.
"""

import codecs
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from data.files import JSON_LINES, TABLE, kind
from data.packed import unpack
from data.text import TextRow, checked

LINE_BYTES = 1 << 20  # a longer line of plain text is read in pieces
KEYS_NAMED = 8


def read(path: Path, column: str, after: Any = None) -> Iterator[TextRow]:
    """Yield the rows of one file from the place `after` (None: all). column: the JSON key or Parquet column.

    Raises ValueError, which names the file and, where it can, the line, for what is damaged or holds no such text.
    """
    try:
        if kind(path) in TABLE:
            yield from _table(path, column, after or 0)
            return
        offset, number = after or (0, 0)
        size = path.stat().st_size or 1
        with open(path, "rb") as raw:
            file = unpack(path, raw)
            ends_in_cr = b"\n" not in file.peek() and _ends_in_cr(path)
            skip(file, offset)
            if kind(path) in JSON_LINES:
                rows = _json_lines(_lines_by_cr(file) if ends_in_cr else file, path, column, offset, number)
            else:
                rows = _plain_text(_lines_by_cr(file) if ends_in_cr else _pieces(file), path, offset, number)
            for row in rows:
                yield row._replace(done=min(raw.tell() / size, 1.0))
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's trouble, and not the decompressor's
            raise
        raise _damaged(path, error) from None


def skip(file: io.BufferedReader, offset: int) -> None:
    """Read on to `offset`. Raises EOFError where the file ends before."""
    while offset:
        taken = len(file.read(min(offset, 1 << 20)))
        if not taken:
            raise EOFError("it holds less than was read before")
        offset -= taken


def _ends_in_cr(path: Path) -> bool:
    """Say whether the first LINE_BYTES of a file have lines that end in \\r, and none that ends in \\n."""
    with open(path, "rb") as raw:
        start = unpack(path, raw).read(LINE_BYTES)
    return b"\r" in start and b"\n" not in start


def _pieces(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield lines, each with its \\n; those that are longer than LINE_BYTES come in pieces."""
    while piece := file.readline(LINE_BYTES):
        yield piece


def _lines_by_cr(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield lines that end in \\r, as on old Macs; those that are longer than LINE_BYTES come in pieces."""
    rest = b""
    while chunk := file.read(LINE_BYTES):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        yield from lines
        if len(rest) >= LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _json_lines(lines: Iterable[bytes], path: Path, column: str, offset: int, before: int) -> Iterator[TextRow]:
    for number, line in enumerate(lines, before + 1):
        offset += len(line)
        if line.isspace():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}); every line must be one object with its text "
                f"under {column!r}"
            ) from None
        except RecursionError:
            raise ValueError(f"{path}, line {number} is nested too deeply to be read; take that line out") from None
        if not isinstance(document, dict) or column not in document:
            keys = f"it has {_some(document)}" if isinstance(document, dict) else "it is no object"
            raise ValueError(f"{path}, line {number} has no key {column!r} ({keys}); set data.column")
        yield TextRow(checked(document[column], f"{path}, line {number}", column), (offset, number))


def _some(names: Iterable[str]) -> str:
    """Join the first of many names, each cut short."""
    names = [name if name.isprintable() and len(name) < 40 else repr(name)[:40] for name in names]
    return ", ".join(names[:KEYS_NAMED]) + (f" and {len(names) - KEYS_NAMED} more" if len(names) > KEYS_NAMED else "")


def _plain_text(pieces: Iterable[bytes], path: Path, offset: int, number: int) -> Iterator[TextRow]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in chain(pieces, [b""]):
        whole = piece.endswith((b"\n", b"\r"))
        try:
            text = decoder.decode(piece, final=whole or not piece)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number + 1} is not UTF-8 ({error.reason}); convert the file, "
                "for example with iconv -t UTF-8"
            ) from None
        offset += len(piece)
        number += whole
        if text:
            yield TextRow(text, (offset - len(decoder.getstate()[0]), number))


def _damaged(path: Path, error: Exception) -> ValueError:
    """Return the error of a file that its library cannot read to the end."""
    return ValueError(f"{path} is cut short or damaged ({' '.join(str(error).split())}); bring a whole copy")


def _table(path: Path, column: str, first: int) -> Iterator[TextRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is cut short or no Parquet file ({why}); bring a whole copy") from None
    with table:
        if column not in table.schema_arrow.names:
            raise ValueError(
                f"{path} has no column {column!r} (it has {_some(table.schema_arrow.names)}); set data.column"
            )
        total, begin = table.metadata.num_rows, 0
        for group in range(table.num_row_groups):
            end = begin + table.metadata.row_group(group).num_rows
            if end > first:
                number = begin
                try:
                    for batch in table.iter_batches(1024, row_groups=[group], columns=[column]):
                        for text in batch.column(0).to_pylist():
                            number += 1
                            if number > first:
                                place = f"{path}, row {number}"
                                yield TextRow(checked(text, place, column), number, number / total)
                except (pyarrow.ArrowException, UnicodeDecodeError) as error:
                    raise _damaged(path, error) from None
            begin = end
