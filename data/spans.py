"""Cuts questions and passages into windows of tokens for span prediction, and reads the best answer out of the logits.

A long passage is cut into windows that overlap. As in BERT's own run_squad, a beginning counts in that window alone in
which it has the most context, and of the best beginnings and ends of each window the pair with the largest sum is the
answer. There the text is put together again from words; here a token knows its characters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from data.questions import Question
from data.tokenizer_export import as_transformers

# Ids (n,), and where each token's characters begin and end (n, 2).
Encode = Callable[[str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Cutting:
    """The sizes of windows and answers, in tokens; the defaults are those of BERT's and MKOR's code.

    length: of a window, with [CLS] and both [SEP].
    stride: from the beginning of a window's passage to the next one's.
    question: longest question; what is longer is cut off.
    answer: longest answer.
    best: beginnings and ends of each window that are paired.
    """

    length: int = 384
    stride: int = 128
    question: int = 64
    answer: int = 30
    best: int = 20


class Window(NamedTuple):
    """A question with a part of its passage.

    question: its number.
    tokens: [CLS] question [SEP] passage [SEP] and zeros, (length,).
    first: the place of the passage's first token here.
    characters: where each of its tokens begins and ends in the passage, (n, 2).
    most: whether no other window has more context around a token, (n,).
    answer: the places where the answer begins and ends; 0 and 0, at [CLS]: it is not in this window.
    """

    question: int
    tokens: np.ndarray
    first: int
    characters: np.ndarray
    most: np.ndarray
    answer: tuple[int, int]


@cache
def encoder(tokenizer: str) -> Encode:
    """Return what encodes a text with a tokenizer of ours, and remembers texts, which seeds and runs share."""
    theirs: Any = as_transformers(tokenizer)
    theirs.backend_tokenizer.encode_special_tokens = True  # a text that spells out [SEP] gets no [SEP]
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
        if text not in known:
            encoded = theirs.backend_tokenizer.encode(text, add_special_tokens=False)
            known[text] = np.array(encoded.ids, np.int64), np.array(encoded.offsets, np.int64).reshape(-1, 2)
        return known[text]

    return encode


def windows_of(questions: Sequence[Question], encode: Encode, cls: int, sep: int, cutting: Cutting) -> Iterator[Window]:
    """Yield the windows of every question. Raises ValueError where a window is too short for a question."""
    for number, question in enumerate(questions):
        asked = encode(question.text)[0][: cutting.question]
        ids, characters = encode(question.passage)
        room = cutting.length - len(asked) - 3
        if room < 1:
            raise ValueError(f"a window of {cutting.length} tokens is too short for the question {question.text!r}")
        starts = [0]
        while starts[-1] + room < len(ids):
            starts.append(starts[-1] + min(room, cutting.stride))
        sizes = [min(room, len(ids) - start) for start in starts]
        most = _most_context(starts, sizes, len(ids))
        begin, end = _answer_tokens(characters, *question.answers[0])
        for start, size in zip(starts, sizes, strict=True):
            tokens = np.zeros(cutting.length, np.int64)
            first = len(asked) + 2
            text = [cls, *asked, sep, *ids[start : start + size], sep]
            tokens[: len(text)] = text
            inside = start <= begin <= end < start + size
            answer = (begin - start + first, end - start + first) if inside else (0, 0)
            part = slice(start, start + size)
            yield Window(number, tokens, first, characters[part], most[part] == start, answer)


def _most_context(starts: Sequence[int], sizes: Sequence[int], tokens: int) -> np.ndarray:
    """Return for each token the start of the window that has the most on the shorter side of it, and is longest."""
    score, chosen, places = np.full(tokens, -1.0), np.zeros(tokens, np.int64), np.arange(tokens)
    for start, size in zip(starts, sizes, strict=True):
        here = np.minimum(places - start, start + size - 1 - places) + 0.01 * size
        better = (places >= start) & (places < start + size) & (here > score)
        score[better], chosen[better] = here[better], start
    return chosen


def _answer_tokens(characters: np.ndarray, answer: str, start: int) -> tuple[int, int]:
    """Return the first and the last token that hold characters of an answer; (-1, -1): none does."""
    held = np.flatnonzero((characters[:, 0] < start + len(answer)) & (characters[:, 1] > start))
    return (int(held[0]), int(held[-1])) if len(held) else (-1, -1)


def answers_of(
    questions: Sequence[Question], windows: Sequence[Window], logits: np.ndarray, cutting: Cutting
) -> list[str]:
    """Return the text of the best answer to each question, in the order of the questions; "" where none is possible.

    logits: of beginnings and ends, (windows, 2, length).
    """
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(questions)
    for window, (begins, ends) in zip(windows, logits, strict=True):
        score, first, last = _best_pair(window, begins, ends, cutting)
        if score > best[window.question][0]:
            passage = questions[window.question].passage
            best[window.question] = (score, passage[window.characters[first, 0] : window.characters[last, 1]].strip())
    return [text for _, text in best]


def _best_pair(window: Window, begins: np.ndarray, ends: np.ndarray, cutting: Cutting) -> tuple[float, int, int]:
    """Return the largest sum of two logits, and the tokens of the passage at which they are."""
    # The best of all places are paired, [CLS] and the question among them, and those outside the passage fall away.
    tops = [np.argsort(-each, kind="stable")[: cutting.best] - window.first for each in (begins, ends)]
    size = len(window.characters)
    first, last = (top[(top >= 0) & (top < size)] for top in tops)
    first = first[window.most[first]]
    sums = begins[first + window.first][:, None] + ends[last + window.first][None]
    length = last[None] - first[:, None] + 1
    sums = np.where((length >= 1) & (length <= cutting.answer), sums, -np.inf)
    if not sums.size or np.isneginf(sums.max()):
        return -np.inf, 0, 0
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[row, column]), int(first[row]), int(last[column])
