"""A model of configs/model on torch's meta device: of any size, in no time, without memory."""

import torch

from harness.command_line import composed
from models import MODELS
from models.base import LanguageModel


def on_meta(config: str, vocabulary: int) -> LanguageModel:
    """Build the model of configs/model/<config>.yaml for a vocabulary, on the meta device."""
    section = composed([f"model={config}"])["model"]
    with torch.device("meta"):
        keywords = {key: value for key, value in section.items() if key not in ("name", "family", "vocabulary")}
        return MODELS[section["family"]](**keywords, vocabulary=vocabulary)
