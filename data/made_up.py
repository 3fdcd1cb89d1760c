"""Made-up questions on made-up passages, for models too small for real ones: the same in every process.

A passage is a line of short words, three of which are of a kind of their own, in any order: a number, a word in
capitals, and a word in brackets. A question shows a specimen of the kind that it asks for, as `7`. So a model must know
the kinds apart and heed which one is asked for; nothing else of language is needed. With bytes a question and its
passage are at most 29 tokens. A score on them is no score on SQuAD.
"""

import numpy as np

from data.questions import Question, Questions

SOURCE = "made up"
# No articles: SQuAD's scores do not count them.
WORDS = """
of and to in is was he for it with as his on be at by had not are but from or have they one were all we when your can
use each how will out many then them some her make like him into time has look two more go see no way than who its now
find long down day did get come made may part
"""
KINDS = ("7", "A", "(")  # as a question asks for them


def made_up_questions(train: int = 6000, asked: int = 400, words: int = 2, seed: int = 0) -> Questions:
    """Make questions; `words` are those of a passage beside the three that may be asked for."""
    # RandomState, not default_rng: NEP 19 freezes its stream, so the questions outlive numpy's versions.
    random = np.random.RandomState(seed)
    every = [_question(number, words, random) for number in range(train + asked)]
    return Questions(every[:train], every[train:], SOURCE)


def _question(number: int, words: int, random: np.random.RandomState) -> Question:
    known = WORDS.split()

    def word() -> str:
        return known[random.randint(len(known))]

    special = dict(zip(KINDS, (str(random.randint(10, 1000)), word().upper(), f"({word()})"), strict=True))
    parts = [(word(), "") for _ in range(words)] + [(text, kind) for kind, text in special.items()]
    parts = [parts[i] for i in random.permutation(len(parts))]
    asked = KINDS[random.randint(len(KINDS))]
    before = [text for text, _ in parts[: [kind for _, kind in parts].index(asked)]]
    passage, answer = " ".join(text for text, _ in parts), special[asked].strip("()")
    return Question(f"made-up-{number}", asked, passage, ((answer, passage.index(answer, len(" ".join(before)))),))
