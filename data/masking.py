"""Makes batches for masked prediction: a share of the tokens is hidden, and these alone are targets.

Of the chosen tokens 80 % become [MASK], 10 % another token at random, 10 % stay (Devlin et al. 2018, BERT, section
3.1). Which ones, and what becomes of them, is a pure function of the key of a window, as its place in the order is:
a run that was killed, and any number of ranks, see the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from conventions.masking import NEXT, RANDOM, Masking
from conventions.targets import UNCOUNTED
from data.shards import Stream

Batch = tuple[torch.Tensor, torch.Tensor]
MASKED, REPLACED = 0.8, 0.9  # below the first: [MASK]; below the second: a token at random; above: as it is


@dataclass(frozen=True)
class MaskedWindows:
    """Cuts windows as `data.loader.cut` does, for a model that predicts what is masked.

    vocabulary: tokens of the data, of which a chosen one may become any.
    special: the ids of [MASK], [CLS] and [SEP].
    """

    masking: Masking
    vocabulary: int
    special: tuple[int, int, int]

    def __call__(self, stream: Stream, windows: Sequence[int], keys: Sequence[Sequence[int]], context: int) -> Batch:
        """Return inputs and targets, each (len(windows), context) int64 in host memory; -100 where none is predicted.

        keys: numbers below 2^32 for each window, which decide its draws.
        """
        inputs = np.empty((len(windows), context), np.int64)
        targets = np.full((len(windows), context), UNCOUNTED, np.int64)
        for row, target, window, key in zip(inputs, targets, windows, keys, strict=True):
            # RandomState, not default_rng: NEP 19 freezes its stream, so the masks outlive numpy's versions.
            random = np.random.RandomState([*key, window])
            maskable = self._fill(row, target, stream, window, random)
            self._mask(row, target, maskable, random)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _fill(
        self, row: np.ndarray, target: np.ndarray, stream: Stream, window: int, random: np.random.RandomState
    ) -> np.ndarray:
        """Write the tokens of a window into `row`; return the places that may be masked."""
        context = len(row)
        if not self.masking.next_sentence:
            row[:] = stream.read(window * context, context)
            return np.arange(context)
        first, second = Masking.halves(context)
        start = window * context
        other = random.randint(len(stream) - second + 1)
        follows = random.random_sample() < 0.5
        _, cls, sep = self.special
        row[0], row[first + 1], row[-1] = cls, sep, sep
        row[1 : first + 1] = stream.read(start, first)
        row[first + 2 : -1] = stream.read(start + first if follows else other, second)
        target[0] = NEXT if follows else RANDOM
        return np.concatenate([np.arange(1, first + 1), np.arange(first + 2, context - 1)])

    def _mask(self, row: np.ndarray, target: np.ndarray, maskable: np.ndarray, random: np.random.RandomState) -> None:
        number = min(self.masking.predictions(len(row)), len(maskable))
        chosen = random.permutation(maskable)[:number]
        target[chosen] = row[chosen]
        fate, drawn = random.random_sample(number), random.randint(self.vocabulary, size=number)
        row[chosen] = np.where(fate < MASKED, self.special[0], np.where(fate < REPLACED, drawn, row[chosen]))
