"""Scion beside its equations in float64, and beside pytorch_optimizer's implementation."""

import copy

import pytest
import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.scion import LMONorm
from torch import nn

import optimizers
from models.llama import Llama
from optimizers.newton_schulz import newton_schulz
from tests.recording import START, STEPS, Recording
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights

KEYWORDS = {"lr": 2e-3, "radius": 5.0, "head_radius": 40.0, "embedding_radius": 2.0, "vector_radius": 3.0}


@pytest.mark.parametrize(
    ("split", "norm", "scale", "wd"),
    [(True, "sign", "operator", 1.0), pytest.param(False, "column", "spectral", 0.0, marks=pytest.mark.slow)],
)
def test_scion(split, norm, scale, wd):
    lr, mu = KEYWORDS["lr"], 0.9
    m, names = {}, [n for n, _ in tiny_model().named_parameters()]

    def update(i, w, g, step):
        m[i] = mu * m.get(i, 0) + (1 - mu) * g
        name, x = names[i], m[i]
        if w.ndim < 2:
            return w - lr * 3.0 * x / ((x**2).mean() ** 0.5 + 1e-8)
        if name == "embedding.weight":  # which is the head too
            point = 40.0 * x.sign() / w.shape[1]
        elif name == "positions.weight":
            point = 2.0 * (x.sign() if norm == "sign" else x / ((x**2).mean(1, keepdim=True) ** 0.5 + 1e-8))
        else:
            point = torch.cat([spectral(part) for part in x.chunk(3 if split and "qkv" in name else 1)])
        return (1 - lr * wd) * w - lr * point

    def spectral(x):
        rows, columns = x.shape
        x = x / torch.linalg.matrix_norm(x)
        for _ in range(5):
            x = 3.4445 * x - 4.775 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        return 5.0 * x * (rows / columns if scale == "operator" else max(1, rows / columns)) ** 0.5

    keywords = {"split_qkv": split, "embedding_norm": norm, "scale": scale, "weight_decay": wd}
    assert Recording("scion", momentum=mu, **KEYWORDS, **keywords).off(update) < 1e-9


@pytest.mark.parametrize("constrained", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_scion_beside_pytorch_optimizer(constrained, monkeypatch):
    """Theirs iterates in bfloat16 and has no split: here it takes our iteration, whose equations Muon's tests hold."""
    monkeypatch.setattr("pytorch_optimizer.optimizer.scion.zero_power_via_newton_schulz_5", newton_schulz)
    model = tiny_model(dtype=torch.float64)
    named = dict(model.named_parameters())
    tables = ["embedding.weight", "positions.weight"]
    sorts = {
        "spectral": ([p for n, p in named.items() if p.ndim == 2 and n not in tables], LMONorm.SPECTRAL, {}, 5.0),
        "head": ([named["embedding.weight"]], LMONorm.SIGN, {}, 40.0),
        "table": ([named["positions.weight"]], LMONorm.COL, {"transpose": True}, 2.0),
        "vectors": ([p for p in named.values() if p.ndim == 1], LMONorm.BIAS, {}, 3.0),
    }
    groups = [
        {"params": params, "norm_type": norm, "norm_kwargs": more, "scale": scale,
         "constraint": constrained and name != "vectors"}
        for name, (params, norm, more, scale) in sorts.items()
    ]  # fmt: skip
    theirs = pytorch_optimizer.SCION(groups, lr=KEYWORDS["lr"], momentum=0.1, foreach=False)
    objective = tiny_objective(model, grad_clip=None)
    for step in range(STEPS):
        objective.bind(step, tiny_batch(step))()
        theirs.step()
    keywords = {"split_qkv": False, "embedding_norm": "column", "weight_decay": 1.0 if constrained else 0.0}
    assert distance(Recording("scion", **KEYWORDS, **keywords).end, weights(model), START) < 1e-9


def test_an_embedding_takes_the_heads_step_only_where_it_is_the_head():
    for tied, layers in (
        (True, {"embedding.weight": "head"}),
        (False, {"embedding.weight": "table", "head.weight": "head"}),
    ):
        model = Llama(layers=1, heads=2, width=16, context=8, vocabulary=32, tied=tied)
        optimizer = optimizers.build_optimizer("scion", model)
        of = {p: group["layer"] for group in optimizer.param_groups for p in group["params"]}
        found = {n: of[p] for n, p in model.named_parameters() if of[p] in ("head", "table")}
        assert found == layers


def test_constrained_weights_stay_in_their_balls_however_large_the_gradients_are():
    model = tiny_model(dtype=torch.float64)
    optimizer = optimizers.build_optimizer("scion", model, lr=0.2, radius=2.0, head_radius=3.0, embedding_radius=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        for p in model.parameters():
            p.grad = 100 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimizer.step()
    named = dict(model.named_parameters())
    assert named["embedding.weight"].abs().max() <= 3.0 / named["embedding.weight"].shape[1] * (1 + 1e-5)
    assert named["positions.weight"].abs().max() <= 0.5 * (1 + 1e-5)
    up = named["blocks.0.mlp.up.weight"]
    rows, columns = up.shape
    assert torch.linalg.matrix_norm(up, 2) <= 2.0 * (rows / columns) ** 0.5 * 1.3  # Newton-Schulz ends above 1


def test_groups_of_anybody_say_of_what_layer_they_are_and_may_have_a_radius():
    hidden, table, bias = nn.Parameter(torch.zeros(8, 4)), nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(5))
    groups = [
        {"params": [hidden], "layer": "hidden", "radius": 2.0}, {"params": [table], "layer": "table"},
        {"params": [bias], "layer": "vector"},
    ]  # fmt: skip
    optimizer = optimizers.Scion(groups, lr=1.0, embedding_radius=7.0, weight_decay=0.0)
    for p in (hidden, table, bias):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(table.detach(), torch.full((6, 4), -7.0))
    assert torch.allclose(bias.detach(), torch.full((5,), -1.0))
    size = torch.linalg.matrix_norm(hidden.detach(), 2) / (2.0 * 2**0.5)
    assert 0.6 < size < 1.3
    again = copy.deepcopy(optimizer)
    assert [group["radius"] for group in again.param_groups] == [2.0, 7.0, 1.0]


def test_what_cannot_be_is_named():
    for keyword, value in (("embedding_norm", "rows"), ("scale", "match_rms"), ("head_radius", -1.0), ("ns_steps", 0)):
        with pytest.raises(ValueError, match=f"^{keyword} must be"):
            optimizers.build_optimizer("scion", tiny_model(), **{keyword: value})
