"""Draws tokens at random, to measure throughput on any vocabulary with nothing to download.

`uniform` cannot be learned: the loss stays at ln(vocabulary). In `pairs` every second token follows from the one
before it, so a model that has learned this reaches about half of that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.dataset import Splits
from data.prepare import DIR, Halves, Item, write
from data.progress import Progress
from data.shards import LARGEST_VOCABULARY, smallest_dtype

BLOCK = 1 << 20  # tokens in one piece of work
STRIDE = 7919  # a prime: token * STRIDE + 1 spreads the followers over the vocabulary


def synthetic(
    tokens: int = 10_000_000,
    val_tokens: int = 1_000_000,
    vocabulary: int = 50257,
    structure: Literal["uniform", "pairs"] = "pairs",
    seed: int = 0,
    dir: str = DIR,
) -> "Synthetic":
    """Draw random tokens. tokens, val_tokens: how many in each split. seed: 0 to 2^32 - 1, of the tokens alone.

    Raises ValueError for a number that is out of range.
    """
    for key, value in (("tokens", tokens), ("val_tokens", val_tokens)):
        if value < 1:
            raise ValueError(f"{key} must be at least 1, not {value}")
    if not 2 <= vocabulary <= LARGEST_VOCABULARY:
        raise ValueError(f"vocabulary must be between 2 and {LARGEST_VOCABULARY}, not {vocabulary}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be between 0 and {2**32 - 1}, not {seed}")
    identity = {
        "tokens": tokens,
        "val_tokens": val_tokens,
        "vocabulary": vocabulary,
        "structure": structure,
        "seed": seed,
    }
    return Synthetic(dir, identity)


@dataclass(frozen=True)
class Synthetic:
    """The recipe of random tokens."""

    dir: str
    identity: dict[str, Any]

    def build(self, folder: Path, progress: Progress) -> Splits:
        vocabulary = self.identity["vocabulary"]
        train, val = write(folder, self.blocks, self.generate, progress, dtype=smallest_dtype(vocabulary))
        return Splits(train, val, vocabulary, "synthetic")

    def blocks(self, after: int | None) -> Iterator[Item]:
        counts = self.identity["val_tokens"], self.identity["tokens"]
        blocks = [(split, count, first) for split, count in enumerate(counts) for first in range(0, count, BLOCK)]
        for number, (split, count, first) in enumerate(blocks):
            if number >= (after or 0):
                work = (split, number, min(BLOCK, count - first))
                yield Item(work, number + 1, (number + 1) / len(blocks))

    def generate(self, work: tuple[int, int, int]) -> Halves:
        split, number, count = work
        vocabulary = self.identity["vocabulary"]
        generator = np.random.RandomState([self.identity["seed"], number])
        values = generator.randint(0, vocabulary, size=count + count % 2, dtype=np.int64)
        if self.identity["structure"] == "pairs":
            values[1::2] = (values[0::2] * STRIDE + 1) % vocabulary
        made, none = values[:count].astype(smallest_dtype(vocabulary)), np.empty(0, np.uint16)
        return Halves(made, none) if split else Halves(none, made)
