"""Optimizers are found by name. A new one is a file here, an import below, and a YAML in configs/optimizer/.

This folder is also a package of its own, halfstep_optimizers, for anybody's loop: docs/your-loop.md.
"""

from . import stock  # noqa: F401 (importing it enters torch's own)
from .adahessian import AdaHessian
from .base import Objective, Optimizer, eval_weights, metrics, switches_weights
from .kernels import compile_kernels
from .kfac import KFAC
from .kl_soap import KLSOAP
from .lamb import Lamb
from .lion import Lion
from .mkor import Mkor
from .mkor_h import MkorH
from .muon import Muon
from .normuon import NorMuon
from .psgd_kron import PSGDKron
from .registry import OptimizerInfo, build_optimizer, find, list_optimizers, register
from .scion import Scion
from .shampoo import Shampoo
from .soap import SOAP
from .soap_muon import SoapMuon
from .sophia import SophiaG, SophiaH
from .wrapped import Wrapped

__all__ = [
    "KFAC",
    "KLSOAP",
    "SOAP",
    "AdaHessian",
    "Lamb",
    "Lion",
    "Mkor",
    "MkorH",
    "Muon",
    "NorMuon",
    "Objective",
    "Optimizer",
    "OptimizerInfo",
    "PSGDKron",
    "Scion",
    "Shampoo",
    "SoapMuon",
    "SophiaG",
    "SophiaH",
    "Wrapped",
    "build_optimizer",
    "compile_kernels",
    "eval_weights",
    "find",
    "list_optimizers",
    "metrics",
    "register",
    "switches_weights",
]
