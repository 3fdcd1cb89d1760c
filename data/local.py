"""Reads a person's own files as a corpus.

python train.py data=local data.files=corpus.jsonl.zst
python train.py data=local data.files='shards/train-*.jsonl.bz2' data.val_files=shards/validation.jsonl.bz2
"""

from collections.abc import Iterable, Iterator
from typing import Any

from data.files import PLAIN_TEXT, expand, kind, refuse_shared, stamp
from data.prepare import DIR
from data.rows import read
from data.text import Document, Rows, Text, TextRow, check_share, check_tokens, hold_out, passages


def local(
    files: str | list[str],
    val_files: str | list[str] | None = None,
    column: str = "text",
    rows: Rows = "lines",
    val_share: float = 0.01,
    tokens: int | None = None,
    tokenizer: str = "gpt2",
    dir: str = DIR,
) -> Text:
    """Read the text in files, globs or folders. Without val_files a share of it, by its hash, is held out.

    rows says what the lines of .txt files are (see data/text.py); in JSON lines and Parquet a row is a document.
    A file that changes in size or time of change gives another folder, and its tokens are made anew.
    Raises ValueError or FileNotFoundError, which name the key or the file.
    """
    notes: list[str] = []
    held_out = expand(val_files, "val_files", notes) if val_files else []
    trained = expand(files, "files", notes)
    refuse_shared(trained, held_out, "files", "val_files")
    if not held_out:
        check_share(val_share)
    check_tokens(tokens)
    paths = [*held_out, *trained]
    before = {path: stamp([path]) for path in paths}
    sizes = [path.stat().st_size for path in paths]
    total = max(sum(sizes), 1)

    def documents(after: Any) -> Iterator[Document]:
        first, place = after or (0, None)
        for number, path in enumerate(paths[first:], first):
            table: Iterable[TextRow] = read(path, column, place)
            if kind(path) in PLAIN_TEXT and rows == "documents":
                table = (row._replace(text=row.text.rstrip("\r\n")) for row in table)
            parts = passages(table, rows if kind(path) in PLAIN_TEXT else "documents")
            share = float(path in held_out) if held_out else val_share
            begin = sum(sizes[:number])
            place = None
            for part, held in hold_out(parts, share):
                done = (begin + sizes[number] * (part.done or 0)) / total
                yield Document(part._replace(after=(number, part.after), done=done), held)
            if stamp([path]) != before[path]:
                raise ValueError(f"{path} changed while it was read; run again when nothing writes to it")

    identity = {
        "files": stamp(trained),
        "val_files": stamp(held_out),
        "column": column,
        "rows": rows,
        "val_share": None if held_out else val_share,
        "tokens": tokens,
        "tokenizer": tokenizer,
    }
    return Text(dir, identity, tokenizer, documents, tokens, notes)
