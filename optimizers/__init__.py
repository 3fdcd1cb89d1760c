"""Optimizers are found by name. A new one is a file here, an import below, and a YAML in configs/optimizer/."""

from . import (  # noqa: F401 (importing them enters them)
    adahessian,
    kfac,
    lamb,
    lion,
    mkor,
    mkor_h,
    muon,
    shampoo,
    soap,
    sophia,
    stock,
)
from .base import Objective, Optimizer, eval_weights, metrics, switches_weights
from .kernels import compile_kernels
from .registry import OptimizerInfo, build_optimizer, find, list_optimizers, register

__all__ = [
    "Objective",
    "Optimizer",
    "OptimizerInfo",
    "build_optimizer",
    "compile_kernels",
    "eval_weights",
    "find",
    "list_optimizers",
    "metrics",
    "register",
    "switches_weights",
]
