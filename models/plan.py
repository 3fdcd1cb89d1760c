"""A model plan is what a config asks for, checked before its data is there."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from conventions.keywords import bind, in_section
from models import build_model, find, padded_vocabulary
from models.base import LanguageModel


def check_model(section: Mapping[str, Any], context: int, seed: int) -> Callable[[int], LanguageModel]:
    """Check a config's `model` section; return a function that builds the model for data of so many distinct tokens.

    Args:
        context: tokens of the sequences that it will be trained on.
        seed: of its initial weights.

    Raises:
        ValueError: a sentence that names the key, and the remedy; a model built on no memory finds impossible shapes.
    """
    family = find(section["family"])
    of_vocabulary = bind(padded_vocabulary, {"vocabulary": section["vocabulary"]}, "model", ["tokens"])
    shape = {key: value for key, value in section.items() if key != "vocabulary"}
    keywords = bind(family, shape, "model", ["vocabulary"])

    def build(tokens: int) -> LanguageModel:
        with in_section("model", [*keywords, "vocabulary"]):
            vocabulary = padded_vocabulary(**of_vocabulary, tokens=tokens + family.extra_tokens)
            return build_model(section["family"], seed, **keywords, vocabulary=vocabulary)

    with in_section("model", keywords), torch.device("meta"):
        model = family(**keywords, vocabulary=64)
    if not model.causal and model.masking is None:
        raise ValueError(
            f"model.family={section['family']} sees the tokens that it is to predict, and says of none that they are "
            "masked: take a causal family, or one with a masking"
        )
    if model.masking is not None:
        model.masking.check(context)
    longest = model.context
    if context > longest:
        raise ValueError(f"context={context} is longer than model.context={longest}: lower it or raise the model's")
    return build
