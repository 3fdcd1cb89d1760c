"""Optimizers by name. Adding one is a file here, an import below, and a YAML in configs/optimizer/."""

from optimizers import adahessian, lamb, lion, muon, sophia, stock  # noqa: F401 (importing them enters them)
from optimizers.base import Objective, Optimizer, eval_weights, metrics
from optimizers.registry import OptimizerInfo, build_optimizer, find, list_optimizers, register

__all__ = [
    "Objective",
    "Optimizer",
    "OptimizerInfo",
    "build_optimizer",
    "eval_weights",
    "find",
    "list_optimizers",
    "metrics",
    "register",
]
