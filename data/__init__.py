"""Turns corpora into token shards, on first use, and opens them.

    from data import load
    from data.loader import Loader

    corpus = load("stdlib")                                        # or openwebtext, local, ...: see RECIPES
    inputs, targets = Loader(corpus.train, context=256, sequences=32, seed=0).batch(0)

A recipe's keywords are the keys of configs/data/<name>.yaml, where each is explained.
"""

from collections.abc import Callable
from typing import Any

from conventions.sentence import nearest
from data import existing, hub, local, stdlib, synthetic
from data.dataset import Dataset
from data.prepare import Recipe, prepared

RECIPES: dict[str, Callable[..., Recipe]] = {
    "stdlib": stdlib.stdlib,
    "openwebtext": hub.hub,
    "fineweb_edu": hub.hub,
    "c4": hub.hub,
    "dclm": hub.hub,
    "pile": hub.hub,
    "wikipedia": hub.hub,
    "pg19": hub.hub,
    "wikitext103": hub.hub,
    "ptb": hub.hub,
    "hub": hub.hub,
    "local": local.local,
    "shards": existing.shards,
    "synthetic": synthetic.synthetic,
}

__all__ = ["RECIPES", "Dataset", "find", "load"]


def find(name: str) -> Callable[..., Recipe]:
    """Return the recipe of that name; its signature is the section `data` of the config.

    Raises ValueError with the nearest names.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe named {name}: {nearest(name, RECIPES)}")
    return RECIPES[name]


def load(name: str, *, quiet: bool = False, **keywords: Any) -> Dataset:
    """Open the corpus `name`, and prepare it first where that is not done. quiet: show nothing.

    Raises ValueError, FileNotFoundError, ModuleNotFoundError, ConnectionError or OSError with one sentence that
    names the key or the file and the remedy.
    """
    for key, value in keywords.items():
        if key != "dir" and value in ("", []):
            raise ValueError(f"{key} must not be empty")
    return prepared(name, find(name)(**keywords), quiet)
