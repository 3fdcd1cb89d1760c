"""A corpus as a config asks for it, checked before anything is prepared."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from conventions.keywords import bind, in_section
from data import Dataset, find, load
from data.tokenizer import build
from data.words import NAME as WORDS

VOCABULARIES = {"bytes": 256, "gpt2": 50257}


def check_data(section: Mapping[str, Any]) -> Callable[..., Dataset]:
    """Check a config's `data` section; returns a function that loads the corpus, as `data.load` does.

    Raises:
        ValueError: a sentence that names the key, and the remedy.
    """
    keywords = bind(find(section["name"]), section, "data")

    def prepare(quiet: bool = False) -> Dataset:
        with in_section("data", keywords):
            return load(section["name"], quiet=quiet, **keywords)

    return prepare


def vocabulary(section: Mapping[str, Any], otherwise: int | None = None) -> int:
    """Say how many distinct tokens the corpus of a config's `data` section has, which need not be there.

    otherwise: where only preparing it would tell; without it that is a ValueError.
    """
    name = section.get("tokenizer", WORDS)
    known = section.get("vocabulary") or (otherwise if name == WORDS else _size(name))
    if known is None:
        raise ValueError(f"data.tokenizer={name}: give model.vocabulary and data=synthetic instead")
    return int(known)


@functools.cache  # a tokenizer of transformers takes a second
def _size(tokenizer: str) -> int:
    with in_section("data", ["tokenizer"]):
        return VOCABULARIES.get(tokenizer) or build(tokenizer).vocabulary
