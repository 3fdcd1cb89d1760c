"""A model whose every weight shows in its logits: far enough from where initialisation leaves it."""

import torch

from models import build_model
from models.base import LanguageModel


def perturbed_model(family: str, by: float, **shape) -> LanguageModel:
    """Build a model and add N(0, by^2) to each weight, the same numbers every time."""
    model = build_model(family, 0, **shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn(p.shape, generator=generator)
    return model
