"""Rows out of a person's own files: JSON lines, text and Parquet; the first two also as gz, bz2, xz or zst.

Every row carries the place after it, where reading can begin again: a byte offset into the uncompressed file
with the number of lines before it, or a row of a Parquet table. What is broken is told by file and line.
"""

import bz2
import codecs
import glob
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from data.text import Row, checked

PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_LINES, PLAIN_TEXT, TABLE = (".jsonl", ".json"), (".txt",), (".parquet",)
KINDS = f"{', '.join(JSON_LINES + PLAIN_TEXT)} (also with .gz, .bz2, .xz or .zst) or .parquet"
LINE_BYTES = 1 << 20  # a longer line of plain text is read in pieces


def kind(path: Path) -> str | None:
    """`.jsonl`, `.txt` and so on, whatever the file is packed in; None for what cannot be read."""
    packed = path.suffix in PACKED or path.suffix == ".zst"
    suffix = Path(path.stem).suffix if packed else path.suffix
    return suffix if suffix in JSON_LINES + PLAIN_TEXT or (suffix in TABLE and not packed) else None


def expand(files: str | list[str], key: str) -> list[Path]:
    """The files that a path, a glob, a folder (all it holds, at any depth) or a list of these stands for."""
    found: list[Path] = []
    for entry in [files] if isinstance(files, str) else files:
        path = Path(entry).expanduser()
        if path.is_dir():
            below = ((p, p.relative_to(path).parts) for p in path.rglob("*") if p.is_file() and kind(p))
            matches = sorted(p for p, parts in below if not any(part.startswith(".") for part in parts))
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not matches:
            raise FileNotFoundError(f"data.{key}: there is no file at {entry}")
        found += [match.absolute() for match in matches]  # not resolved: a cache's links hide the suffix
    for path in found:
        if not kind(path):
            raise ValueError(f"{key}: {path} is of no kind that can be read; bring {KINDS}")
    return list(dict.fromkeys(found))


def stamp(paths: Iterable[Path]) -> str:
    """A hash over names, sizes and times of change: another one where any file may have become another."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read(path: Path, column: str, after: Any = None) -> Iterator[Row]:
    """The rows of one file from the place `after` (None: all). column: the JSON key or Parquet column."""
    try:
        if kind(path) in TABLE:
            yield from _table(path, column, after or 0)
            return
        offset, line = after or (0, 0)
        size = path.stat().st_size or 1
        with open(path, "rb") as raw:
            file = unpack(path, raw)
            skip(file, offset)
            rows = _json_lines(file, path, column, offset, line) if kind(path) in JSON_LINES else None
            for row in rows or _plain_text(file, path, offset, line):
                yield row._replace(done=min(raw.tell() / size, 1.0))
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); bring a whole copy") from None
    except OSError as error:
        if error.errno is not None:  # the disk's trouble, and not the decompressor's
            raise
        raise ValueError(f"{path} is cut short or damaged ({error}); bring a whole copy") from None


def unpack(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix in PACKED:
        return cast(BinaryIO, PACKED[path.suffix](raw, "rb"))
    if path.suffix == ".zst":
        # Not the package zstandard: it takes a file that is cut short for a whole one.
        import pyarrow

        return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), 1 << 20))
    return raw


def skip(file: BinaryIO, offset: int) -> None:
    while offset:
        taken = len(file.read(min(offset, 1 << 20)))
        if not taken:
            raise EOFError("it holds less than was read before")
        offset -= taken


def _json_lines(file: BinaryIO, path: Path, column: str, offset: int, before: int) -> Iterator[Row]:
    for number, line in enumerate(file, before + 1):
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
        if not isinstance(document, dict) or column not in document:
            keys = f"it has {', '.join(document)}" if isinstance(document, dict) else "it is no object"
            raise ValueError(f"{path}, line {number} has no key {column!r} ({keys}); set data.column")
        yield Row(checked(document[column], f"{path}, line {number}", column), (offset, number))


def _plain_text(file: BinaryIO, path: Path, offset: int, number: int) -> Iterator[Row]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    piece = b"\n"
    while piece:
        piece = file.readline(LINE_BYTES)
        whole = piece.endswith(b"\n")
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
            yield Row(text, (offset - len(decoder.getstate()[0]), number))


def _table(path: Path, column: str, first: int) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is cut short or no Parquet file ({error}); bring a whole copy") from None
    with table:
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise ValueError(f"{path} has no column {column!r} (it has {names}); set data.column")
        total, begin = table.metadata.num_rows, 0
        for group in range(table.num_row_groups):
            end = begin + table.metadata.row_group(group).num_rows
            if end > first:
                number = begin
                for batch in table.iter_batches(1024, row_groups=[group], columns=[column]):
                    for text in batch.column(0).to_pylist():
                        number += 1
                        if number > first:
                            yield Row(checked(text, f"{path}, row {number}", column), number, number / total)
            begin = end
