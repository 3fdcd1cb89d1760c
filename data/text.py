"""Turns documents into tokens, as every corpus of text needs it, wherever it is read from."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.dataset import Splits
from data.files import stamp
from data.hf_tokenizer import PREFIX, local_folder
from data.prepare import Halves, Item, write
from data.progress import Progress
from data.tokenizer import build
from data.words import NAME as WORDS
from data.words import words_of

# What the rows of a file or table are. documents: each row is one. lines: all are one running text.
# articles: lines of running text, in which a heading ` = Title = ` begins a new document, as in WikiText.
Rows = Literal["documents", "lines", "articles"]

PASSAGE = 1 << 13  # characters: running text is tokenized, and held out, in passages of about this length
BATCH = 1 << 19  # characters in one piece of work for a thread, about 0.1 s of BPE
HEADING = re.compile(r" ?= [^=](.*[^=])? =\s*")


class TextRow(NamedTuple):
    """A row of a file or table: a document, or a line of running text."""

    text: str
    after: Any  # JSON: where to begin again after this row
    done: float | None = None  # share of the corpus read up to here, where that is known


class Passage(NamedTuple):
    """A document, or a part of one: the end-of-document token comes after the part that `ends`."""

    text: str
    after: Any
    done: float | None
    ends: bool


class Document(NamedTuple):
    """A passage and the split that it belongs to."""

    passage: Passage
    held_out: bool  # belongs to the validation split


def checked(value: Any, where: str, column: str) -> str:
    """Return the text of a column: none where it is null. Raises ValueError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column!r} holds {type(value).__name__}, not text; set data.column")
    return value


def passages(rows: Iterable[TextRow], kind: Rows) -> Iterator[Passage]:
    """Yield the rows of one file or table as passages; those with no text are dropped.

    Running text is cut where BPE would cut it anyway: its tokens are those of the text in one piece.
    """
    if kind == "documents":
        yield from (Passage(row.text, row.after, row.done, True) for row in rows if row.text)
        return
    held: list[str] = []
    size = 0
    for row, following in pairwise(chain(rows, [None])):
        assert row is not None
        held.append(row.text)
        size += len(row.text)
        ends = following is None or (kind == "articles" and HEADING.fullmatch(following.text) is not None)
        long = size >= PASSAGE and following is not None and (seam(row.text, following.text) or size >= 4 * PASSAGE)
        if ends or long:
            yield Passage("".join(held), row.after, row.done, ends)
            held, size = [], 0


def seam(line: str, following: str) -> bool:
    """Say whether GPT-2's BPE splits between two lines as it does at the end and the beginning of a text.

    Its pattern takes a run of white space whole, but for the last character where a word follows. So the run
    must be the newline alone, or the next line must begin with the one space that its first word takes.
    """
    word = following[1:2] if following[:1] == " " else following[:1]
    return bool(word.strip()) and (following[0] == " " or bool(line[-2:-1].strip()))


def hold_out(parts: Iterable[Passage], share: float) -> Iterator[Document]:
    """Send a share of the passages (0: none, 1: all) to the validation split, chosen by a hash of their text.

    A document that is cut where the split changes ends there: neither split runs on over the gap.
    """
    judged = ((part, fraction(part.text) < share) for part in parts)
    for this, following in pairwise(chain(judged, [None])):
        assert this is not None
        part, held_out = this
        changes = following is not None and following[1] != held_out
        yield Document(part._replace(ends=part.ends or changes), held_out)


def check_share(val_share: float) -> None:
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be above 0 and below 1, not {val_share}")


def check_tokens(tokens: int | None) -> None:
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens must be at least 1, or null for all there are, not {tokens}")


def fraction(text: str) -> float:
    """Return a number in [0, 1) that only the text decides."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class Text:
    """A corpus of text. documents(after): those that come after the position `after` (None: all).

    notes: what a person should know of what is read, a sentence each; shown where it is prepared.
    """

    dir: str
    identity: dict[str, Any]  # whatever decides the tokens: its hash names the folder
    tokenizer: str
    documents: Callable[[Any], Iterator[Document]]
    limit: int | None = None  # training tokens
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        # A tokenizer's folder may come to hold another tokenizer.
        if self.tokenizer.startswith(PREFIX) and (folder := local_folder(self.tokenizer)):
            self.identity["tokenizer"] = f"{self.tokenizer} {stamp(sorted(folder.iterdir()))}"

    def build(self, folder: Path, progress: Progress) -> Splits:
        for note in self.notes:
            progress.say(note)
        tokenizer = words_of(folder, self._trained) if self.tokenizer == WORDS else build(self.tokenizer)
        end = np.array([tokenizer.end], tokenizer.dtype)

        def encode(documents: list[Document]) -> Halves:
            halves: tuple[list[np.ndarray], list[np.ndarray]] = [], []
            for (text, _, _, ends), held_out in documents:
                halves[held_out].append(tokenizer.encode(text))
                if ends:
                    halves[held_out].append(end)
            return Halves(*(np.concatenate([end[:0], *half]) for half in halves))

        train, val = write(
            folder, lambda after: batches(self.documents(after)), encode, progress, self.limit, tokenizer.dtype
        )
        return Splits(train, val, tokenizer.vocabulary, tokenizer.name, tokenizer.special)

    def _trained(self) -> Iterator[str]:
        return (each.passage.text for each in self.documents(None) if not each.held_out)


def batches(documents: Iterable[Document]) -> Iterator[Item]:
    """Yield documents in pieces of work, cut at the same places wherever an earlier run was killed."""
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.passage.text)
        if size >= BATCH:
            yield Item(held, document.passage.after, document.passage.done)
            held, size = [], 0
    if held:
        yield Item(held, held[-1].passage.after, 1.0)
