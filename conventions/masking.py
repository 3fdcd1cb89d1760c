"""A convention of data and models on masked prediction: what a masked model asks of its batches."""

from dataclasses import dataclass

EXTRA_TOKENS = 3  # [MASK], [CLS] and [SEP], the ids after the data's own tokens
# The target at [CLS] says whether the second half follows the first in the text. The loss of masked tokens skips both.
NEXT, RANDOM = -101, -102


@dataclass(frozen=True)
class Masking:
    """Decides which tokens of a sequence a masked model predicts (Devlin et al. 2018, BERT, sections 3.1 and A.1).

    share: of the tokens, above 0 and at most 1.
    most: largest number of predictions in a sequence; None: no bound.
    next_sentence: the sequence is [CLS] A [SEP] B [SEP], where B does not follow A in half of all cases.
    """

    share: float
    most: int | None
    next_sentence: bool

    def predictions(self, context: int) -> int:
        """Return how many tokens are predicted in each sequence of `context` tokens: at least one."""
        asked = round(self.share * context)
        return max(1, min(asked, context if self.most is None else self.most))

    def check(self, context: int) -> None:
        """Raise ValueError where sequences of `context` tokens are too short."""
        if self.next_sentence and context < 5:
            raise ValueError(f"context must be at least 5 for [CLS] A [SEP] B [SEP], not {context}")

    @staticmethod
    def halves(context: int) -> tuple[int, int]:
        """Return the tokens of A and of B in a sequence of `context` tokens; the second begins after [CLS] A [SEP]."""
        first = (context - 3) // 2
        return first, context - 3 - first
