"""Turns text into words, as in Mikolov's Penn Treebank: losses are then per word, and exp(loss) is its perplexity.

python train.py data=ptb data.tokenizer=words context=32

A word is what stands between white space, and the end of a line is the word <eos>. The vocabulary is that of the
training text: a corpus has its own, which lies beside its tokens as words.json, the most frequent word first. A word
that the training text has not is <unk>, if the training text has that.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from conventions import atomic
from conventions.json_text import parse_json
from data.shards import Dtype, smallest_dtype

NAME = "words"
END, UNKNOWN = "<eos>", "<unk>"
FILE = "words.json"


class Words:
    """Encodes by a list of words, whose places are the ids. The list holds <eos>."""

    name = NAME
    special: tuple[int, int, int] | None = None

    def __init__(self, words: list[str]):
        self.ids = {word: i for i, word in enumerate(words)}
        self.vocabulary, self.end = len(words), self.ids[END]
        self.dtype: Dtype = smallest_dtype(len(words))

    def encode(self, text: str) -> np.ndarray:
        """Return the ids, (n,). Raises ValueError for a new word where there is no <unk>."""
        words = split(text)
        try:
            return np.fromiter((self.ids[word] for word in words), self.dtype, len(words))
        except KeyError:
            unknown = self.ids.get(UNKNOWN)
        if unknown is None:
            new = next(word for word in words if word not in self.ids)
            raise ValueError(
                f"tokenizer {NAME}: the training text has no word {new[:40]!r} and no {UNKNOWN} to stand for it; "
                f"write {UNKNOWN} for its rare words, or take another tokenizer"
            )
        return np.fromiter((self.ids.get(word, unknown) for word in words), self.dtype, len(words))


def split(text: str) -> list[str]:
    return text.replace("\n", f" {END} ").split()


def words_of(folder: Path, texts: Callable[[], Iterable[str]]) -> Words:
    """Return the words of a training text. They are counted once, and kept in the folder of its tokens."""
    path = folder / FILE
    if not path.is_file():
        counts = Counter({END: 0})
        for text in texts():
            counts.update(split(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(words))
    return Words(parse_json(path.read_text(encoding="utf-8")))
