"""SOAP-Muon beside its equations; tests/test_authors.py holds it beside its authors' code.

Gradients are drawn, and have full rank: in a direction without a gradient V is rounding alone, and what is divided by
its root and orthogonalised is an arbitrary step there.
"""

import pytest
import torch
from torch.nn import Parameter

import optimizers
from optimizers import SoapMuon
from optimizers.newton_schulz import newton_schulz
from tests.recording import START, Recording
from tests.test_eigenbasis import drawn
from tests.test_soap import rotated, rotated_back
from tests.tiny import distance, tiny_model

LR, B1, B2, EPS, WD = 0.02, 0.9, 0.95, 1e-8, 0.1
KEYWORDS = {"lr": LR, "momentum": B1, "beta2": B2, "eps": EPS, "weight_decay": WD}


def orthogonalised(x, steps=10, polish=2):
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(steps):
        x = 3.4445 * x - 4.775 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    for _ in range(polish):
        x = 1.5 * x - 0.5 * x @ x.T @ x
    return x


def naive(w, q, grads, every=10, b3=B2, squares="gradient", root=True, nesterov=True, correct_bias=True, rms=False):
    """Return the weights at the end; the momentum is in the parameter's own coordinates."""
    rows, columns = w.shape
    gg, m, v = [0, 0], 0, 0
    for t, g in enumerate(grads):
        if t > 0:
            m = B1 * m + (1 - B1) * g
            u = m
            if nesterov:
                u = m + (1 - B1) * g if squares == "gradient" else B1 * m + (1 - B1) * g
            v = B2 * v + (1 - B2) * rotated(g if squares == "gradient" else u, q) ** 2
            o = orthogonalised(rotated(u, q) / (v**0.5 + EPS))
            if root:
                o = torch.sign(o) * o.abs() ** 0.5
            o = o / (o**2).sum() ** 0.5 * min(rows, columns) ** 0.5
            size = LR * (0.2 * max(rows, columns) ** 0.5 if rms else max(1, rows / columns) ** 0.5)
            size *= (1 - B2**t) ** 0.5 / (1 - B1**t) if correct_bias else 1
            w = w - LR * WD * w - size * rotated_back(o, q)
        gg = [b3 * gg[0] + (1 - b3) * g @ g.T, b3 * gg[1] + (1 - b3) * g.T @ g]
        for k in (0, 1) if t > 0 and t % every == 0 else ():
            if q[k] is not None:
                order = torch.diag(q[k].T @ gg[k] @ q[k]).argsort(descending=True)
                q[k] = torch.linalg.qr(gg[k] @ q[k][:, order]).Q
                v = v.index_select(k, order)
    return w


VARIANTS = [
    ({}, {}),
    ({"every": 3, "shampoo_beta": 0.9}, {"every": 3, "b3": 0.9}),
    ({"nesterov": False, "correct_bias": False}, {"nesterov": False, "correct_bias": False}),
    ({"root": False, "scale": "match_rms"}, {"root": False, "rms": True}),
    (
        {"squares": "momentum", "root": False, "correct_bias": False, "one_sided": False, "every": 1},
        {"squares": "momentum", "root": False, "correct_bias": False, "every": 1},
    ),
    ({"qr": "cholesky", "every": 4}, {"every": 4}),
]


def ends(shape, keywords, grads):
    """Return the first weights and bases, and the last weights."""
    p = Parameter(drawn(shape, 1, seed=1)[0])
    start, optimizer = p.detach().clone(), SoapMuon([{"params": [p], "hidden": True}], **KEYWORDS, **keywords)
    for t, g in enumerate(grads):
        p.grad = g.clone()
        optimizer.step()
        if t == 0:
            assert torch.equal(p, start)
            state = optimizer.state[p]
            q = [state.get(f"{side}_basis") for side in ("left", "right")]
    return start, q, p.detach()


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
@pytest.mark.parametrize(("keywords", "known"), VARIANTS, ids=str)
def test_soap_muon(keywords, known, shape):
    grads = drawn(shape, 25)
    start, q, end = ends(shape, keywords, grads)
    assert (q[0] is None) == (keywords.get("one_sided", True) and shape[0] >= shape[1])
    assert distance([end], [naive(start, q, grads, **known)], [start]) < 1e-9


def test_without_the_root_it_is_newton_schulz_of_soaps_own_direction():
    """The iteration commutes with rotations, so that it makes no difference in which coordinates it is done."""
    direction, turn = drawn((8, 12), 1)[0], torch.linalg.qr(drawn((8, 8), 1, seed=1)[0]).Q
    there_and_back = turn @ newton_schulz(turn.T @ direction, 10, 2)
    assert torch.allclose(there_and_back, newton_schulz(direction, 10, 2), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 16, 64), (64, 16), (32, 32)])
def test_a_few_steps_of_the_cubic_bring_singular_values_to_one(shape):
    x = drawn(shape, 1)[0]
    values = torch.linalg.svdvals(newton_schulz(x, 10, 3))
    assert (values - 1).abs().max() < 1e-2
    for each in x.reshape(-1, *shape[-2:]):
        assert torch.allclose(newton_schulz(each, 6, 2), orthogonalised(each, 6, 2), atol=1e-9)


def test_matrices_of_one_shape_step_as_a_batch_as_they_do_one_by_one():
    """CUDA takes them together; here it is asked for by hand."""
    grads = drawn((2, 12, 8), 6)
    ends_ = []
    for together in (False, True):
        params = [Parameter(w) for w in drawn((2, 12, 8), 1, seed=1)[0]]
        optimizer = SoapMuon([{"params": params, "hidden": True}], every=2)
        group, charged = optimizer.param_groups[0], 0
        for g in grads:
            params[0].grad, params[1].grad = g
            batch = [(p, optimizer.matrices[p][0]) for p in params]
            for each in [batch] if together else [[pair] for pair in batch]:
                with torch.no_grad():
                    charged += optimizer._step_batch(each, group)
        ends_.append((charged, [p.detach() for p in params]))
    assert ends_[0][0] == ends_[1][0]
    for ours, theirs in zip(ends_[0][1], ends_[1][1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9)


def test_the_rest_gets_adamw():
    keywords = {"lr": 0.0, "adamw_lr": 1e-3, "weight_decay": 0.1}
    runs = [Recording(name, steps=5, **keywords) for name in ("muon", "soap_muon")]
    assert distance(runs[1].end, runs[0].end, START) == 0


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"beta2": 1.0}, "beta2 must"),
        ({"shampoo_beta": 1.0}, "shampoo_beta must"),
        ({"squares": "weights"}, "squares must be gradient or momentum"),
        ({"ns_polish": -1}, "ns_polish must"),
        ({"every": 0}, "every must"),
        ({"scale": "none"}, "scale must"),
    ],
)
def test_impossible_values(keywords, complaint):
    with pytest.raises(ValueError, match=complaint):
        optimizers.build_optimizer("soap_muon", tiny_model(), **keywords)
