"""KL-SOAP beside its equations, with whole inverses; tests/test_authors.py holds it beside its authors' code.

As for SOAP, the reference takes over our bases after the first call.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers
from optimizers import KLSOAP, SOAP
from optimizers.kronecker import complete_
from tests.recording import Recording, decay
from tests.test_eigenbasis import drawn
from tests.test_soap import feed, rotated, rotated_back
from tests.tiny import tiny_model

LR, B1, B2, EPS, WD = 3e-3, 0.9, 0.95, 1e-8, 0.1
KEYWORDS = {"lr": LR, "betas": (B1, B2), "eps": EPS, "weight_decay": WD, "split_qkv": False}


def bases(**keywords) -> list[list[Tensor | None]]:
    """[QL, QR] of each parameter after the first call."""
    run = Recording("kl_soap", steps=1, **keywords)
    states = [run.optimizer.state[p] for p in run.model.parameters()]
    return [[state.get("left_basis"), state.get("right_basis")] for state in states]


def naive(q, every=10, b3=B2, clamp=4000, first=0.1, correct_bias=False, normalize_grads=False):
    """The equations with every inverse a matrix, and the momentum in the parameters' own coordinates."""
    gg, values, m, v = {}, {}, {}, {}

    def average(i, g, sides):
        old_l, old_r = gg.get(i, (0, 0))
        if len(sides) < 2:
            gg[i] = (b3 * old_l + (1 - b3) * g @ g.T, b3 * old_r + (1 - b3) * g.T @ g) if g.ndim == 2 else (0, 0)
            return
        rows, columns = g.shape
        if i not in values:
            values[i] = [torch.full((n,), first, dtype=g.dtype) for n in g.shape]
            gg[i] = ((1 - b3) * g @ g.T / columns, (1 - b3) * g.T @ g / rows)
            return
        l_inverse, r_inverse = (q[i][k] @ torch.diag(1 / values[i][k]) @ q[i][k].T for k in (0, 1))
        seen_l, seen_r = g @ r_inverse @ g.T / columns, g.T @ l_inverse @ g / rows
        gg[i] = (b3 * old_l + (1 - b3) * seen_l, b3 * old_r + (1 - b3) * seen_r)
        for k, seen in enumerate((seen_l, seen_r)):
            values[i][k] = b3 * values[i][k] + (1 - b3) * torch.diag(q[i][k].T @ seen @ q[i][k])
            bound = max(10, min(len(values[i][k]), clamp))
            values[i][k] = values[i][k].clamp(min=1 / bound**2)

    def update(i, w, g, t):
        sides = [k for k in (0, 1) if q[i][k] is not None]
        if t > 0:
            m[i] = B1 * m.get(i, 0) + (1 - B1) * g
            v[i] = B2 * v.get(i, 0) + (1 - B2) * rotated(g, q[i]) ** 2
            step = rotated_back(rotated(m[i], q[i]) / (v[i] ** 0.5 + EPS), q[i])
            if normalize_grads:
                step = step / step.square().mean().sqrt()
            w = w - LR * ((1 - B2**t) ** 0.5 / (1 - B1**t) if correct_bias else 1) * step
            w = w - LR * decay(w, WD) * w
        average(i, g, sides)
        if t > 0 and t % every == 0:
            for k in sides:
                order = torch.arange(len(q[i][k]))
                if len(sides) < 2:  # SOAP's
                    order = torch.diag(q[i][k].T @ gg[i][k] @ q[i][k]).argsort(descending=True)
                q[i][k] = torch.linalg.qr(gg[i][k] @ q[i][k][:, order]).Q
                v[i] = v[i].index_select(k, order)
        return w

    return update


@pytest.mark.parametrize(
    ("keywords", "known"),
    [
        ({"every": 9}, {"every": 9}),
        pytest.param({"every": 7, "correct_bias": True}, {"every": 7, "correct_bias": True}, marks=pytest.mark.slow),
        pytest.param(
            {"shampoo_beta": 0.9, "normalize_grads": True, "every": 60},
            {"b3": 0.9, "normalize_grads": True, "every": 60},
            marks=pytest.mark.slow,
        ),
        ({"every": 9, "first_eigenvalue": 1e-3, "clamp": 11.0}, {"every": 9, "first": 1e-3, "clamp": 11.0}),
        pytest.param({"max_side": 40, "every": 3}, {"every": 3}, marks=pytest.mark.slow),
        pytest.param({"every": 9, "qr": "cholesky"}, {"every": 9}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kl_soap(keywords, known):
    """The intervals are such that QR meets no column that others span before the last, see tests/test_soap.py."""
    run = Recording("kl_soap", **KEYWORDS, **keywords)
    assert run.off(naive(bases(**KEYWORDS, **keywords), **known)) < 1e-9


def test_the_factors_of_a_kronecker_product_come_out_as_they_are():
    """Gradients are drawn with covariance L x R, which the product of the averages then is: of 1,000, within 10 %."""
    generator = torch.Generator().manual_seed(0)
    roots = [torch.randn(n, n, dtype=torch.float64, generator=generator) for n in (3, 4)]
    p = Parameter(torch.zeros(3, 4, dtype=torch.float64))
    optimizer = KLSOAP([p], betas=(0.9, 0.998), every=5)
    for _ in range(2000):
        p.grad = roots[0] @ torch.randn(3, 4, dtype=torch.float64, generator=generator) @ roots[1].T
        optimizer.step()
    state, expected = optimizer.state[p], torch.kron(*(root @ root.T for root in roots))
    product = torch.kron(*(complete_(state[side].clone()) for side in ("left", "right")))
    assert (product - expected).norm() < 0.1 * expected.norm()
    values = torch.outer(state["left_values"], state["right_values"]).flatten().sort().values
    assert torch.allclose(values.log(), torch.linalg.eigvalsh(expected).log(), atol=0.3)


def test_where_one_side_alone_is_rotated_it_is_soap():
    ends = []
    for constructor in (SOAP, KLSOAP):
        p = Parameter(drawn((12, 8), 1, seed=1)[0])
        keywords = {"betas": (B1, B2), "correct_bias": True, "max_side": 8, "every": 3}
        feed(constructor([p], **keywords), p, drawn((12, 8), 20))
        ends.append(p.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"first_eigenvalue": 0.0}, "first_eigenvalue must"),
        ({"clamp": 0.5}, "clamp must"),
        ({"every": 0}, "every must"),
    ],
)
def test_impossible_values(keywords, complaint):
    with pytest.raises(ValueError, match=complaint):
        optimizers.build_optimizer("kl_soap", tiny_model(), **keywords)
