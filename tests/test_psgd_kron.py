"""PSGD-Kron beside its equations in float64, and beside pytorch_optimizer's implementation."""

import math

import numpy as np
import pytest
import pytorch_optimizer
import torch
from torch import nn

import optimizers
from optimizers import PSGDKron
from optimizers.loop import Loop
from optimizers.psgd_kron import Refreshes
from optimizers.triangular import _spectral_bound, times, transposed_solve, transposed_times
from tests.recording import Recording
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective

TABLES = ["embedding.weight", "positions.weight"]
STEPS, REFRESHED = 24, {0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22}
KEYWORDS = {"lr": 3e-3, "flat_start": 4, "anneal": 9.0, "every": 3, "preconditioner_lr": 0.2}


def drawn(step: int, place: int, suffix: str, shape) -> torch.Tensor:
    """The noise of the refresh in a step: by the seed, which is 0, the step and the parameter's place."""
    generator = tiny_objective(tiny_model()).bind(step, tiny_batch(step)).generator(("whitening", place, suffix))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("split", "whiten", "mode", "clip", "units"),
    [
        (True, "momentum", "none", 1.1, False),
        pytest.param(False, "gradient", "smart_one_diag", None, True, marks=pytest.mark.slow),
    ],
)
def test_psgd_kron(split, whiten, mode, clip, units):
    lr, mu, rate, wd, damping = 3e-3, 0.9, 0.2, 0.1, 1e-3
    model = tiny_model()
    names = [n for n, _ in model.named_parameters()]
    run = Recording(
        "psgd_kron", STEPS, **KEYWORDS, momentum=mu, weight_decay=wd, damping=damping, whiten=whiten, max_rms=clip,
        memory_save=mode, split_qkv=split, unit_grads=units,
    )  # fmt: skip
    places = {n: run.optimizer.places[p] for n, p in run.model.named_parameters()}
    m, q = {}, {}

    def part(i, k, several, w, g, step):
        name, key = names[i], (i, k)
        if units:
            g = g / (g**2).sum() ** 0.5
        m[key] = mu * m.get(key, 0) + (1 - mu) * g
        hat = m[key] / (1 - mu ** (step + 1))
        matrix = g.ndim == 2
        if key not in q:
            q[key] = [torch.eye(n, dtype=g.dtype) for n in g.shape]
        triangles = [False] if not matrix else [name not in TABLES, True]
        if matrix and mode == "smart_one_diag" and g.shape[0] != g.shape[1]:
            triangles[0 if g.shape[0] > g.shape[1] else 1] = False
        if step in REFRESHED:
            v = drawn(step, places[name], f".{k}" if several else "", g.shape)
            x = hat if whiten == "momentum" else g
            x = x + damping * x.abs().mean() * v
            if not matrix:
                x, v = x[:, None], v[:, None]
            left, right = q[key] if matrix else (q[key][0], torch.eye(1, dtype=g.dtype))
            a = left @ x @ right.T
            b = torch.linalg.inv(left).T @ v @ torch.linalg.inv(right)
            sides = [(a @ a.T, b @ b.T), (a.T @ a, b.T @ b)]
            for j, triangle in enumerate(triangles):
                up, down = sides[j]
                if triangle:
                    q[key][j] = q[key][j] - rate * torch.triu(up - down) @ q[key][j] / bound(up + down)
                else:
                    up, down = up.diag(), down.diag()
                    q[key][j] = q[key][j] - rate * torch.diag(up - down) @ q[key][j] / (up + down).max()
        u = q[key][0].T @ q[key][0] @ (hat if matrix else hat[:, None])
        u = u @ q[key][1].T @ q[key][1] if matrix else u[:, 0]
        if clip:
            u = u * min(1, clip / (u**2).mean() ** 0.5)
        return w - lr * (u + (wd if matrix else 0) * w)

    def bound(s):
        x = s[:, (s**2).sum(0).argmax()]
        x = s @ x
        return (s @ x).norm() / x.norm()

    def update(i, w, g, step):
        several = split and "qkv" in names[i]
        parts = zip(w.chunk(3), g.chunk(3), strict=True) if several else [(w, g)]
        return torch.cat([part(i, k, several, *each, step) for k, each in enumerate(parts)])

    assert run.off(update) < 1e-9


def test_psgd_kron_beside_pytorch_optimizer(monkeypatch):
    """Theirs has no damping and no split, decides on triangles by shape, and clips by 1e-6 less; the noise is ours."""
    module = "pytorch_optimizer.optimizer.psgd"
    shapes = [(8, 5), (6, 6), (3, 9)]  # its products of five factors take n^6 operations
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    hidden, twins = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    own = PSGDKron(
        [{"params": twins, "table": False}], lr=3e-3, damping=0.0, split_qkv=False, weight_decay=0.1, max_rms=1e9,
        flat_start=4, anneal=1e-2, every=5,
    )  # fmt: skip
    schedule = pytorch_optimizer.optimizer.psgd.precondition_update_prob_schedule(
        flat_start=4, decay=1e-2, min_prob=1 / 4.5
    )
    theirs = pytorch_optimizer.Kron(
        hidden, lr=3e-3, weight_decay=0.1, pre_conditioner_update_probability=schedule,
        precondition_dtype=torch.float64, balance_prob=0.3,
    )  # fmt: skip
    step, order = 0, []

    def noise(like, dtype=None):
        order.append(len(order))
        return torch.randn(like.shape, generator=at(step).generator(("whitening", order[-1], "")), dtype=like.dtype)

    def at(step):
        loop = Loop(None, {"params": twins})
        loop.step = step
        return loop

    monkeypatch.setattr(f"{module}.torch.randn_like", noise)
    monkeypatch.setattr(f"{module}.norm_lower_bound", _spectral_bound)
    monkeypatch.setattr(
        f"{module}.solve_triangular_right", lambda x, a: torch.linalg.solve_triangular(a, x, upper=True, left=False)
    )
    monkeypatch.setattr(f"{module}.torch.clamp", lambda x, max: torch.ones_like(x))
    np.random.seed(0)
    for step in range(STEPS):  # noqa: B007  # `noise` reads it
        order.clear()
        for p, twin in zip(hidden, twins, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            twin.grad = p.grad.clone()
        theirs.step()
        own.step()
    assert distance([p.detach() for p in twins], [p.detach() for p in hidden], start) < 1e-9


def test_the_refreshes_are_kron_torchs():
    """Its counter runs up to one over the probability, which falls as e^(-anneal n) to .03."""
    refreshes, since, expected = Refreshes(34, 500, 1e-3), 0, []
    for n in range(6000):
        since += 1
        expected.append(since >= 1 / min(1.0, max(0.03, math.exp(-1e-3 * (n - 500)))))
        since = 0 if expected[-1] else since
    assert [refreshes.due(n) for n in range(6000)] == expected
    assert sum(expected[:500]) == 500
    assert sum(expected[-1000:]) in (29, 30)
    assert Refreshes(34, 500, 1e-3).due(5999) == expected[5999]  # it needs no history


def test_whitened_gradients_have_the_covariance_one():
    """Of gradients with known factors the preconditioned ones have entries of unit size that are not correlated."""
    generator, double = torch.Generator().manual_seed(0), torch.float64
    mix = torch.eye(4, dtype=double) + 0.4 * torch.randn(4, 4, generator=generator, dtype=double)
    size = torch.tensor([0.2, 0.5, 1.0], dtype=double)
    p = nn.Parameter(torch.zeros(4, 3, dtype=double))
    optimizer = PSGDKron([{"params": [p], "table": False}], lr=0.0, momentum=0.0, damping=0.0, flat_start=800)
    plain, whitened = [], []
    for step in range(800):
        p.grad = mix @ torch.randn(4, 3, generator=generator, dtype=double) * size
        optimizer.step()
        if step >= 300:
            plain.append(p.grad.flatten())
            whitened.append(optimizer._whitened(p.grad, optimizer.state[p]).flatten())
    before, after = ((torch.stack(x).T.cov() - torch.eye(12)).abs().max() for x in (plain, whitened))
    assert before > 1.8
    assert after < 0.25


def test_triangles_and_diagonals_are_multiplied_as_matrices():
    generator = torch.Generator().manual_seed(0)
    for n in (5, 200):  # one strip, and three
        upper = torch.randn(n, n, generator=generator, dtype=torch.float64).triu() / n + torch.eye(
            n, dtype=torch.float64
        )
        x = torch.randn(n, 7, generator=generator, dtype=torch.float64)
        for q, dense in ((upper, upper), (upper.diag(), upper.diag().diag())):
            assert torch.allclose(times(q, x), dense @ x)
            assert torch.allclose(transposed_times(q, x), dense.T @ x)
            assert torch.allclose(transposed_solve(q, x), torch.linalg.inv(dense).T @ x)


def test_a_tables_rows_and_long_sides_have_a_number_each():
    model = tiny_model()
    optimizer = optimizers.build_optimizer("psgd_kron", model, max_side=32, split_qkv=False)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    shapes = {n: [tuple(optimizer.state[p][side].shape) for side in ("left", "right") if side in optimizer.state[p]]
              for n, p in model.named_parameters()}  # fmt: skip
    assert shapes["embedding.weight"] == [(64,), (32, 32)]
    assert shapes["positions.weight"] == [(16,), (32, 32)]
    assert shapes["blocks.0.attention.projection.weight"] == [(32, 32), (32, 32)]
    assert shapes["blocks.0.mlp.up.weight"] == [(128,), (32, 32)]
    assert shapes["norm.weight"] == [(32,)]


def test_what_cannot_be_is_named():
    wrong = {"whiten": "noise", "memory_save": "some", "every": 0, "preconditioner_lr": 0.0, "max_rms": 0.0, "block": 0}
    for keyword, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{keyword} must be"):
            optimizers.build_optimizer("psgd_kron", tiny_model(), **{keyword: value})
