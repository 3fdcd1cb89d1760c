"""Corpora as token shards, prepared on first use.

    from data import load
    from data.loader import Loader

    corpus = load("stdlib")                                        # or openwebtext, local, ...: see RECIPES
    inputs, targets = Loader(corpus.train, context=256, sequences=32, seed=0).batch(0)

A recipe's keywords are the keys of configs/data/<name>.yaml, where each is explained.
"""

import difflib
from collections.abc import Callable
from typing import Any

from data.dataset import Dataset
from data.existing import shards
from data.hub import hub
from data.local import local
from data.prepare import Recipe, prepare
from data.stdlib import stdlib
from data.synthetic import synthetic

RECIPES: dict[str, Callable[..., Recipe]] = {
    "stdlib": stdlib,
    "openwebtext": hub,
    "fineweb_edu": hub,
    "wikitext103": hub,
    "ptb": hub,
    "hub": hub,
    "local": local,
    "shards": shards,
    "synthetic": synthetic,
}

__all__ = ["RECIPES", "Dataset", "load"]


def load(name: str, *, quiet: bool = False, **keywords: Any) -> Dataset:
    """The corpus `name`, prepared first where it is not yet. quiet: show nothing (all ranks but the first).

    Raises ValueError, FileNotFoundError, ModuleNotFoundError, ConnectionError or OSError with one sentence that
    names the key or the file and the remedy.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no data recipe {name!r}{hint}; there are {', '.join(RECIPES)}")
    return prepare(name, RECIPES[name](**keywords), quiet)
