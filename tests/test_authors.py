"""Optimizers beside their authors' code, which no package index has: from checkouts, by hand.

    git clone https://github.com/gpauloski/kfac-pytorch ~/authors/kfac-pytorch
    git clone https://github.com/Mohammad-Mozaffari/mkor ~/authors/mkor
    git clone https://github.com/facebookresearch/optimizers ~/authors/optimizers
    git clone https://github.com/nikhilvyas/SOAP ~/authors/SOAP
    git clone https://github.com/yorkerlin/KL-Methods ~/authors/KL-Methods
    git clone https://github.com/nikhilvyas/SOAP_MUON ~/authors/SOAP_MUON
    HALFSTEP_AUTHORS=~/authors python -m pytest -rs tests/test_authors.py

Theirs run as they are, but for the casts to float32 that they hard-wire: in a copy those are to float64.
"""

import importlib
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import optimizers
from optimizers.kl_soap import KLSOAP
from optimizers.param_groups import hidden_matrices
from optimizers.soap import SOAP
from optimizers.soap_muon import SoapMuon
from tests.test_eigenbasis import drawn
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, train, weights

AUTHORS = os.environ.get("HALFSTEP_AUTHORS", "")
pytestmark = pytest.mark.skipif(not AUTHORS, reason="HALFSTEP_AUTHORS names no folder with the authors' checkouts")
STEPS, DECAY, CLIP = 50, 1e-2, 0.5


def in_float64(folder: Path, package: str, target: Path, monkeypatch) -> None:
    """Make a checkout's package importable, its float32 become float64."""
    shutil.copytree(folder / package, target / package)
    for path in (target / package).rglob("*.py"):
        text = path.read_text().replace("torch.float32", "torch.float64")
        path.write_text(text.replace("importlib_metadata.version('kfac-pytorch')", "''"))  # it is not installed
    monkeypatch.syspath_prepend(str(target))


def by_decay(model: nn.Module) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": matrices}, {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]


def apart(name: str, bias: bool, theirs, **keywords) -> float:
    """`theirs(model)` gives what to call once the gradient is there; both clip it first."""
    ours, other = (tiny_model(dtype=torch.float64, bias=bias) for _ in range(2))
    start = weights(ours)
    train(
        ours,
        optimizers.build_optimizer(name, ours, weight_decay=DECAY, **keywords),
        tiny_objective(ours, grad_clip=CLIP),
        STEPS,
    )
    step = theirs(other)
    for i in range(STEPS):
        other.zero_grad()
        other(*tiny_batch(i)).mean.backward()
        nn.utils.clip_grad_norm_(other.parameters(), CLIP)
        step()
    return distance(weights(ours), weights(other), start)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kl_clip", [1e-3, None])
@pytest.mark.parametrize("method", ["eigen", "inverse"])
def test_kfac(method, kl_clip, bias, tmp_path, monkeypatch):
    in_float64(Path(AUTHORS, "kfac-pytorch"), "kfac", tmp_path, monkeypatch)
    preconditioner = importlib.import_module("kfac.preconditioner").KFACPreconditioner
    lr = 0.05 if kl_clip else 1e-3

    def theirs(model):
        sgd = torch.optim.SGD(by_decay(model), lr=lr, momentum=0.9, weight_decay=DECAY)
        kaisa = preconditioner(
            model, factor_update_steps=2, inv_update_steps=4, damping=1e-3, factor_decay=0.95, lr=lr,
            kl_clip=kl_clip or (lambda step: None), compute_method=method, inv_dtype=torch.float64,
            update_factors_in_hook=False,
        )  # fmt: skip
        return lambda: (kaisa.step(), sgd.step())

    keywords = {"lr": lr, "damping": 1e-3, "factor_decay": 0.95, "kl_clip": kl_clip, "momentum": 0.9}
    assert apart("kfac", bias, theirs, every_factor=2, every_inverse=4, method=method, **keywords) < 1e-13


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", ["sgd", "adamw"])
def test_mkor_repo(backend, bias, tmp_path, monkeypatch):
    in_float64(Path(AUTHORS, "mkor"), "mkor", tmp_path, monkeypatch)
    mkor = importlib.import_module("mkor.mkor").MKOR
    lr = 1e-2 if backend == "sgd" else 1e-3

    def theirs(model):
        model.device = torch.device("cpu")  # it asks
        keywords = {"lr": lr, "weight_decay": DECAY}
        sgd, adamw = torch.optim.SGD, torch.optim.AdamW
        inner = (
            sgd(by_decay(model), momentum=0.9, **keywords) if backend == "sgd" else adamw(by_decay(model), **keywords)
        )
        return mkor(model, inv_freq=5, half_precision=False, optimizer=inner).step

    keywords = {"formula": "repo", "backend": backend, "momentum": 0.9, "betas": (0.9, 0.999)}
    assert apart("mkor", bias, theirs, lr=lr, decay=0.95, every=5, **keywords) < 1e-13


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block", [None, 20])
@pytest.mark.parametrize("power", [0.25, 0.5])
def test_shampoo(power, block, bias, tmp_path, monkeypatch):
    """Beside Meta's Distributed Shampoo, which Shi et al. (arXiv 2309.06497) wrote; its tables and vectors are AdamW's.

    Its bias corrections are powers of a float32 count, whatever the factors' dtype.
    """
    in_float64(Path(AUTHORS, "optimizers"), "distributed_shampoo", tmp_path, monkeypatch)
    meta = importlib.import_module("distributed_shampoo")
    lr, betas, every = 1e-3, (0.9, 0.95), 10

    def theirs(model):
        hidden = hidden_matrices(model)
        rest = [p for p in model.parameters() if all(p is not q for q in hidden)]
        shampoo = meta.DistributedShampoo(
            hidden, lr=lr, betas=betas, epsilon=1e-12, weight_decay=DECAY, precondition_frequency=every,
            start_preconditioning_step=every, max_preconditioner_dim=block or 10000,
            grafting_config=meta.AdamPreconditionerConfig(beta2=betas[1], epsilon=1e-8),
            distributed_config=meta.SingleDeviceDistributedConfig(target_parameter_dimensionality=2),
            preconditioner_config=meta.RootInvShampooPreconditionerConfig(inverse_exponent_override={2: power}),
        )  # fmt: skip
        adamw = torch.optim.AdamW(
            [{"params": [p for p in rest if p.ndim >= 2]},
             {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}],
            lr=lr, betas=betas, eps=1e-8, weight_decay=DECAY,
        )  # fmt: skip
        return lambda: (shampoo.step(), adamw.step())

    assert apart("shampoo", bias, theirs, lr=lr, betas=betas, power=power, every=every, block=block) < 2e-7


def test_soap(tmp_path, monkeypatch):
    """They take their first basis from ours: the first G G^T has a null space, whose basis rounding alone chooses."""
    text = Path(AUTHORS, "SOAP", "soap.py").read_text()
    for single, double in [(".data.float()", ".data.double()"), ("grad.device)", "grad.device).double()")]:
        text = text.replace(single, double)
    (tmp_path / "authors_soap.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    keywords = {"lr": 3e-3, "betas": (0.95, 0.95), "eps": 1e-8, "weight_decay": DECAY}
    ours, theirs = (tiny_model(dtype=torch.float64) for _ in range(2))
    start = weights(ours)
    soap = SOAP([{**group, "table": False} for group in by_decay(ours)], **keywords)
    other = importlib.import_module("authors_soap").SOAP(by_decay(theirs), precondition_frequency=10, **keywords)
    objectives = [tiny_objective(model, grad_clip=CLIP) for model in (ours, theirs)]
    for i in range(STEPS):
        soap.step(objectives[0].bind(i, tiny_batch(i)))
        objectives[1].bind(i, tiny_batch(i))()
        other.step()
        if i == 0:
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                if p.ndim == 2:
                    other.state[q]["Q"] = [soap.state[p][f"{side}_basis"].clone() for side in ("left", "right")]
    assert distance(weights(ours), weights(theirs), start) < 1e-9


@pytest.mark.parametrize("every", [7, 10, 100])
def test_kl_soap(every, tmp_path, monkeypatch):
    """Theirs treats matrices alone, and ours is given no others; it takes its first basis from ours, as SOAP's does."""
    text = Path(AUTHORS, "KL-Methods", "optim", "kl_opt.py").read_text()
    (tmp_path / "authors_kl.py").write_text(text.replace(".float()", ".double()").replace("@torch.compile", ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    keywords = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": DECAY}
    ours, theirs = (tiny_model(dtype=torch.float64) for _ in range(2))
    start, pairs = weights(ours), list(zip(hidden_matrices(ours), hidden_matrices(theirs), strict=True))
    soap = KLSOAP([{"params": [p for p, _ in pairs], "table": False}], every=every, **keywords)
    other = importlib.import_module("authors_kl").KLOpt(
        [q for _, q in pairs], precondition_frequency=every, using_klsoap=True, cast_dtype=torch.float64, **keywords
    )
    objectives = [tiny_objective(model, grad_clip=CLIP) for model in (ours, theirs)]
    for i in range(STEPS):
        soap.step(objectives[0].bind(i, tiny_batch(i)))
        objectives[1].bind(i, tiny_batch(i))()
        other.step()
        for p, q in pairs if i == 0 else []:
            other.state[q]["Q"] = [soap.state[p][f"{side}_basis"].clone() for side in ("left", "right")]
    assert distance(weights(ours), weights(theirs), start) < 1e-9


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_soap_muon(shape, one_sided, tmp_path, monkeypatch):
    """On drawn gradients: where one has no component, rounding decides what theirs and ours orthogonalise."""
    text = Path(AUTHORS, "SOAP_MUON", "nanogpt_optimizer.py").read_text()
    text = text.replace("@torch.compile()", "").replace(".data.float()", ".data.double()").replace("eps=1e-7", "eps=0")
    (tmp_path / "authors_soap_muon.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    p, q = (nn.Parameter(drawn(shape, 1, seed=1)[0]) for _ in range(2))
    start, keywords = p.detach().clone(), {"lr": 0.02, "eps": 1e-15, "weight_decay": 0.0}
    ours = SoapMuon([{"params": [p], "hidden": True}], one_sided=one_sided, **keywords)
    theirs = importlib.import_module("authors_soap_muon").SOAP_Muon(
        [q], projection_type="std" if one_sided else "full", newton_schulz_steps=10, nestrov=True, **keywords
    )
    monkeypatch.setattr(torch, "zeros", partial(torch.zeros, dtype=torch.float64))
    for i, g in enumerate(drawn(shape, STEPS)):
        p.grad, q.grad = g.clone(), g.clone()
        theirs.step()
        ours.step()
        if i == 0 and not one_sided:
            left, right = (ours.state[p][f"{side}_basis"].clone() for side in ("left", "right"))
            theirs.state[q]["ortho_matrix"] = [left, right.T]
    assert distance([p.detach()], [q.detach()], [start]) < 1e-9
