"""Models are found by family. A constructor's signature is the schema of the config's `model` section."""

from typing import Any, Literal

import torch
from torch import Generator

from models.base import LanguageModel
from models.bert import BERT
from models.gpt import GPT
from models.llama import Llama

MODELS: dict[str, type[LanguageModel]] = {"gpt2": GPT, "llama": Llama, "bert": BERT}


def find(family: str) -> type[LanguageModel]:
    """Return the class of a model family; ValueError for an unknown one."""
    if family not in MODELS:
        raise ValueError(f"model.family must be one of {', '.join(MODELS)}, not {family}")
    return MODELS[family]


def build_model(family: str, seed: int, **keywords: Any) -> LanguageModel:
    """Build the model, in fp32 on the CPU: the same weights for the same seed wherever it is moved afterwards.

    Touches no global random state. Raises ValueError for an unknown family or an impossible keyword.
    """
    constructor = find(family)
    with torch.device("meta"):  # shapes only, so that nothing is drawn twice
        model = constructor(**keywords)
    model.to_empty(device="cpu")
    model.initialize(Generator().manual_seed(seed))
    return model


def padded_vocabulary(vocabulary: int | Literal["auto"], tokens: int) -> int:
    """Return the rows of the embedding for data with `tokens` distinct tokens; "auto" is the next multiple of 64.

    Matrix products run fastest on such sizes (50,257 becomes 50,304, as nanoGPT has it). Rows beyond `tokens` are
    never a target. Raises ValueError if the data has tokens that the model would have no row for.
    """
    if vocabulary == "auto":
        return -(-tokens // 64) * 64
    if vocabulary < tokens:
        raise ValueError(f"vocabulary must be auto or at least {tokens}, what the data has, not {vocabulary}")
    return vocabulary
