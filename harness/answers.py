"""Scores answers as SQuAD's official evaluate-v1.1.py does: exact match, and F1 over words.

Both compare texts without case, punctuation and articles, and take the best of the answers that people gave.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Return a text in small letters, without punctuation and articles, with one space between its words."""
    small = "".join(each for each in text.lower() if each not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", small).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """Return 1 where an answer equals any of the true ones, else 0."""
    return float(any(normalized(answer) == normalized(truth) for truth in truths))


def f1(answer: str, truths: Sequence[str]) -> float:
    """Return the best F1 of an answer's words beside those of a true one, between 0 and 1."""
    return max(_f1(normalized(answer).split(), normalized(truth).split()) for truth in truths)


def _f1(words: list[str], truth: list[str]) -> float:
    common = sum((Counter(words) & Counter(truth)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(truth)
    return 2 * precision * recall / (precision + recall)
