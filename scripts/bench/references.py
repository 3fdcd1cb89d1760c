"""Other people's implementations for bench_optimizers: from installed packages, and from checkouts of their code."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import StringIO
from math import lcm
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from conventions.sentence import nearest
from optimizers.param_groups import decayed, hidden_matrices
from scripts.bench.stand import Contender, Stand, compared_passes, periods

Keywords = dict[str, Any]
LR = 1e-5  # the weights are to stay where they are, more or less
LONGEST_SIDE = 10_000  # of a factor that somebody decomposes: SOAP's authors and we leave longer ones alone


@dataclass
class Rival:
    """Somebody's optimizer: what it does with the gradients that are there, and where it keeps its state.

    Attributes:
        step: the update; it is given its number.
        refresh_at: the steps that refresh are those of this number, and every so many after it.
        passes_every: steps between passes that its hooks want to see; 0: it has none.
    """

    step: Callable[[int], Any]
    keeps: Sequence[torch.optim.Optimizer] = ()
    refresh_at: int = 0
    passes_every: int = 0


@dataclass(frozen=True)
class Reference:
    """An implementation of the optimizer that is registered here as `optimizer`.

    Attributes:
        source: a module's name; of a checkout the file that holds it, relative to the checkout.
        make: (its module, the stand, our keywords) -> Rival.
    """

    optimizer: str
    name: str
    source: str
    make: Callable[[Any, Stand, Keywords], Rival]

    @property
    def from_checkout(self) -> bool:
        return self.source.endswith(".py")

    def build(self, stand: Stand, spare: Stand, keywords: Keywords, checkout: Path | None = None) -> Contender:
        with redirect_stdout(StringIO()):  # some have much to say
            module = load(checkout, self.source) if checkout else importlib.import_module(self.source)
            rival = self.make(module, stand, keywords)

        def advance(n: int) -> None:
            with stand.clock.part("given"):
                if rival.passes_every and n % rival.passes_every == 0:
                    compared_passes(stand, spare, n)
                stand.load(n)
            rival.step(n)

        every = [period for period in periods(keywords) if period > 1]

        def refreshes(n: int) -> bool:
            return any(n % period == rival.refresh_at for period in every)

        return Contender(self.name, stand, advance, lcm(*periods(keywords)), refreshes, rival.keeps)


def load(checkout: Path, source: str) -> ModuleType:
    """A file of a checkout as a module of a package whose own __init__ is not run: it may want what is not there."""
    path = checkout / source
    package = path.parent.name if "/" in source else f"checkout_{path.stem}"
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__path__ = [str(path.parent)]
    return importlib.import_module(f"{package}.{path.stem}")


def find_references(optimizer: str, checkout: Path | None) -> list[tuple[Reference, Path | None]]:
    """What can run beside an optimizer here: from packages that are installed, and from the checkout.

    Raises:
        ValueError: none of its references comes from a checkout.
        FileNotFoundError: the checkout holds none of the files that would be read.
    """
    mine = [reference for reference in REFERENCES if reference.optimizer == optimizer]
    found: list[tuple[Reference, Path | None]] = [
        (r, None) for r in mine if not r.from_checkout and find_spec(r.source.partition(".")[0])
    ]
    if checkout is None:
        return found
    readable = [reference for reference in mine if reference.from_checkout]
    if not readable:
        names = {r.optimizer for r in REFERENCES if r.from_checkout}
        raise ValueError(f"--reference {optimizer}: no checkout is known for it; {nearest(optimizer, names)}")
    there = [reference for reference in readable if (checkout / reference.source).is_file()]
    if not there:
        wanted = " or ".join(f"{r.source} ({r.name})" for r in readable)
        raise FileNotFoundError(f"--reference {optimizer}={checkout} is no checkout of it: it holds no {wanted}")
    return found + [(reference, checkout) for reference in there]


@dataclass
class Made:
    """A reference that needs nothing but a class and its keywords: `rename` tells its names for ours, in order."""

    cls: str
    rename: dict[str, str] = field(default_factory=dict)
    fixed: Keywords = field(default_factory=dict)
    refresh_at: int = 0

    def __call__(self, module: Any, stand: Stand, keywords: Keywords) -> Rival:
        same = {theirs: keywords[our] for our, theirs in self.rename.items()}
        groups = decayed(stand.params)
        optimizer = getattr(module, self.cls)(groups, lr=LR, **same, **self.fixed)
        return Rival(lambda n: optimizer.step(), [optimizer], self.refresh_at)


def sophia_of_its_authors(module: Any, stand: Stand, keywords: Keywords) -> Rival:
    optimizer = module.SophiaG(decayed(stand.params), lr=LR)

    def step(n: int) -> None:
        if n % keywords["every"] == 0:
            optimizer.update_hessian()
        optimizer.step(bs=stand.shape.tokens)

    return Rival(step, [optimizer])


def with_hessian(cls: str) -> Callable[[Any, Stand, Keywords], Rival]:
    """pytorch_optimizer's, handed the estimate."""

    def make(module: Any, stand: Stand, keywords: Keywords) -> Rival:
        optimizer = getattr(module, cls)(decayed(stand.params), lr=LR, update_period=keywords["every"])
        order = {id(p): i for i, p in enumerate(stand.params)}
        places = [order[id(p)] for group in optimizer.param_groups for p in group["params"]]

        def step(n: int) -> None:
            estimate = None
            if n % keywords["every"] == 0:
                gradients = stand.gradients(n + 1)
                estimate = [gradients[i] for i in places]
            optimizer.step(hessian=estimate)

        return Rival(step, [optimizer])

    return make


def adahessian_of_its_authors(module: Any, stand: Stand, keywords: Keywords) -> Rival:
    optimizer = module.Adahessian(stand.params, lr=LR)
    given: list[Tensor] = []
    optimizer.get_trace = lambda params, grads: given

    def step(n: int) -> None:
        given[:] = stand.gradients(n + 1)
        optimizer.step()

    return Rival(step, [optimizer])


@contextmanager
def in_float32() -> Iterator[None]:
    """Newton-Schulz iterations cast to bfloat16, which a CPU multiplies far more slowly: there it is fp32's turn."""
    with mock.patch.object(Tensor, "bfloat16", lambda self: self):
        yield


def muon(cls: str) -> Callable[[Any, Stand, Keywords], Rival]:
    """A class that takes hidden matrices alone, beside torch's fused AdamW for the rest."""

    def make(module: Any, stand: Stand, keywords: Keywords) -> Rival:
        hidden = hidden_matrices(stand.model)
        taken = {id(p) for p in hidden}
        optimizer = getattr(module, cls)(hidden, lr=LR, momentum=keywords["momentum"])
        adamw = torch.optim.AdamW(decayed(p for p in stand.params if id(p) not in taken), lr=LR, fused=True)

        def step(n: int) -> None:
            if stand.device == "cpu":
                with in_float32():
                    optimizer.step()
            else:
                optimizer.step()
            adamw.step()

        return Rival(step, [optimizer, adamw])

    return make


def shampoo_of_pytorch_optimizer(module: Any, stand: Stand, keywords: Keywords) -> Rival:
    every, longest = keywords["every"], max(max(p.shape) for p in stand.params)
    if longest > LONGEST_SIDE:
        raise ValueError(f"it has an SVD of every side, and one is {longest:,} long")
    optimizer = module.Shampoo(decayed(stand.params), lr=LR, preconditioning_compute_steps=every)
    return Rival(lambda n: optimizer.step(), [optimizer], refresh_at=every - 1)


def kfac_of_gpauloski(module: Any, stand: Stand, keywords: Keywords) -> Rival:
    sgd = torch.optim.SGD(decayed(stand.params), lr=LR, momentum=keywords["momentum"])
    preconditioner = module.KFACPreconditioner(
        stand.blocks, factor_update_steps=keywords["every_factor"], inv_update_steps=keywords["every_inverse"], lr=LR,
        damping=keywords["damping"], factor_decay=keywords["factor_decay"], kl_clip=keywords["kl_clip"],
        compute_method=keywords["method"], update_factors_in_hook=False,
    )  # fmt: skip

    def step(n: int) -> None:
        preconditioner.step()
        sgd.step()

    return Rival(step, passes_every=keywords["every_factor"])


def mkor_of_its_authors(module: Any, stand: Stand, keywords: Keywords) -> Rival:
    adamw = torch.optim.AdamW(decayed(stand.params), lr=LR, fused=True)
    optimizer = module.MKOR(stand.model, inv_freq=keywords["every"], half_precision=False, optimizer=adamw)
    return Rival(lambda n: optimizer.step(), passes_every=keywords["every"])


PACKAGE = "pytorch_optimizer"
REFERENCES = [
    Reference("adamw", "torch, foreach", "torch.optim", Made("AdamW", fixed={"foreach": True})),
    Reference("lion", PACKAGE, PACKAGE, Made("Lion", {"betas": "betas"})),
    Reference("lion", "timm", "timm/optim/lion.py", Made("Lion", {"betas": "betas"})),
    Reference("lamb", PACKAGE, PACKAGE, Made("Lamb", {"betas": "betas"})),
    Reference("lamb", "timm", "timm/optim/lamb.py", Made("Lamb", {"betas": "betas"})),
    Reference("sophia_g", "authors", "sophia.py", sophia_of_its_authors),
    Reference("sophia_h", PACKAGE, PACKAGE, with_hessian("SophiaH")),
    Reference("adahessian", PACKAGE, PACKAGE, with_hessian("AdaHessian")),
    Reference("adahessian", "authors", "image_classification/optim_adahessian.py", adahessian_of_its_authors),
    Reference("muon", "torch", "torch.optim", muon("Muon")),
    Reference("muon", "authors", "muon.py", muon("SingleDeviceMuon")),
    Reference("soap", PACKAGE, PACKAGE, Made("SOAP", {"every": "precondition_frequency"})),
    Reference("soap", "authors", "soap.py", Made("SOAP", {"every": "precondition_frequency"})),
    Reference("shampoo", PACKAGE, PACKAGE, shampoo_of_pytorch_optimizer),
    Reference("kfac", "gpauloski", "kfac/preconditioner.py", kfac_of_gpauloski),
    Reference("mkor", "authors", "mkor/mkor.py", mkor_of_its_authors),
]
