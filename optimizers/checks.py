"""Ranges of the hyperparameters that many optimizers share; a ValueError names the keyword."""

from collections.abc import Sequence


def check_common(lr: float, weight_decay: float) -> None:
    if lr < 0:
        raise ValueError(f"lr must be at least 0, not {lr}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, not {weight_decay}")


def check_betas(betas: Sequence[float], name: str = "betas") -> None:
    if not all(0 <= beta < 1 for beta in betas):
        each, value = ("", betas[0]) if len(betas) == 1 else (" each", list(betas))
        raise ValueError(f"{name} must{each} be at least 0 and below 1, not {value}")


def check_at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
