"""Shampoo beside its equations, beside another implementation, and where it must equal Adafactor in its eigenbasis."""

import pytest
import pytorch_optimizer
import torch
from torch import Tensor
from torch.nn import Parameter

from optimizers.kronecker import complete_
from optimizers.shampoo import Shampoo
from optimizers.soap import SOAP
from tests.recording import Recording, decay
from tests.test_eigenbasis import drawn
from tests.test_soap import feed, per_step_flops
from tests.tiny import tiny_model

LR, B1, B2, WD = 1.5e-3, 0.9, 0.95, 0.1
TABLES = [i for i, (n, _) in enumerate(tiny_model().named_parameters()) if n.startswith(("embedding", "positions"))]


def inverse_root(factor: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(factor)
    return vectors @ torch.diag(values**-power) @ vectors.T


def naive(power: float, graft: bool, every: int, eps: float, block: int = 10**6):
    left, right, roots, m, v = {}, {}, {}, {}, {}

    def update(i, w, g, step):
        t = step + 1
        m[i] = B1 * m.get(i, 0) + (1 - B1) * g
        v[i] = B2 * v.get(i, 0) + (1 - B2) * g**2
        momentum, adam = m[i] / (1 - B1**t), m[i] / (1 - B1**t) / ((v[i] / (1 - B2**t)) ** 0.5 + 1e-8)
        update = adam.clone()
        pieces = ((r, c) for r in range(0, len(w), block) for c in range(0, w.shape[1], block)) if w.ndim == 2 else ()
        for r, c in pieces if i not in TABLES else ():
            at, k = (slice(r, r + block), slice(c, c + block)), (i, r, c)
            left[k] = B2 * left.get(k, 0) + (1 - B2) * g[at] @ g[at].T
            right[k] = B2 * right.get(k, 0) + (1 - B2) * g[at].T @ g[at]
            if t % every == 0 or (t < every and not graft):
                roots[k] = [inverse_root(f / (1 - B2**t) + eps * torch.eye(len(f)), power) for f in (left[k], right[k])]
            if k in roots:
                update[at] = roots[k][0] @ momentum[at] @ roots[k][1]
                update[at] *= adam[at].norm() / update[at].norm() if graft else 1
        return w - LR * decay(w, WD) * w - LR * update

    return update


@pytest.mark.parametrize("power", [0.25, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        pytest.param({"every": 1, "eps": 1e-8}, marks=pytest.mark.slow),
        pytest.param({"graft": False, "every": 4, "eps": 1e-6}, marks=pytest.mark.slow),
        pytest.param({"block": 20}, marks=pytest.mark.slow),
        {"block": 20, "graft": False, "every": 4, "eps": 1e-6},
    ],
    ids=str,
)
def test_shampoo(power, variant):
    """A larger eps where the first factors, which have a null space, are made use of."""
    inputs = {"graft": True, "every": 10, "eps": 1e-12, **variant}
    run = Recording("shampoo", lr=LR, betas=(B1, B2), weight_decay=WD, power=power, split_qkv=False, **variant)
    assert run.off(naive(power, **inputs)) < 1e-9
    assert run.optimizer.metrics()["condition"] > 1


def test_shampoo_beside_pytorch_optimizer():
    """Its Shampoo has power 1/4, no grafting, and sums where ours averages: L + eps I = t (L^ + eps / t I) at step t.

    With b2 almost 1 our averages are plain means, and its step is ours over sqrt(t). It has no power 1/2, and takes the
    last update into the next gradient where ours has a momentum: both off here.
    """
    start, grads = drawn((6, 6), 1, seed=1)[0], drawn((6, 6), 6)
    ours, theirs = Parameter(start.clone()), Parameter(start.clone())
    shampoo = Shampoo([ours], lr=0.1, betas=(0.0, 1 - 1e-8), eps=1e-14, every=1, graft=False, weight_decay=0.0)
    other = pytorch_optimizer.Shampoo([theirs], lr=0.1, matrix_eps=1e-14)
    for t, g in enumerate(grads, start=1):
        shampoo.param_groups[0]["lr"] = 0.1 / t**0.5
        feed(shampoo, ours, [g])
        feed(other, theirs, [g])
    assert (ours - theirs).norm() / (theirs - start).norm() < 1e-6


def test_shampoo_with_power_one_half_is_adafactor_in_its_eigenbasis():
    """SOAP's claim 1: a step of both after the same gradients, up to the factor sqrt(trace L)."""
    grads = drawn((7, 5), 12)
    ours, theirs = (Parameter(torch.zeros(7, 5, dtype=torch.float64)) for _ in range(2))
    shampoo = Shampoo([ours], lr=0.0, betas=(0.0, B2), eps=1e-30, power=0.5, every=12, graft=False, weight_decay=0.0)
    feed(shampoo, ours, grads[:-1])
    shampoo.param_groups[0]["lr"] = 1.0
    feed(shampoo, ours, grads[-1:])  # preconditioned by factors that hold this very gradient

    state = shampoo.state[ours]
    adafactor = SOAP([theirs], lr=0.0, betas=(0.0, B2), eps=0.0, every=1000, factorized=True, weight_decay=0.0)
    feed(adafactor, theirs, [torch.ones(7, 5, dtype=torch.float64)])  # nothing but a start
    for side in ("left", "right"):
        adafactor.state[theirs][f"{side}_basis"] = torch.linalg.eigh(complete_(state[side]))[1]
    feed(adafactor, theirs, grads[:-1])
    adafactor.param_groups[0]["lr"] = 1.0
    feed(adafactor, theirs, grads[-1:])

    trace = state["left"].trace() / (1 - B2**12)
    assert torch.allclose(ours * trace**0.5, theirs, rtol=1e-9)
    assert ours.abs().min() > 1e-3


def test_grafting_gives_each_matrix_the_size_of_adams_step():
    grads = drawn((9, 6), 20)
    ours, adams = (Parameter(torch.zeros(9, 6, dtype=torch.float64)) for _ in range(2))
    shampoo = Shampoo([ours], lr=0.1, betas=(B1, B2), every=5, weight_decay=0.0)
    adam = torch.optim.AdamW([adams], lr=0.1, betas=(B1, B2), eps=1e-8, weight_decay=0.0)
    for t, g in enumerate(grads, start=1):
        before, befores = ours.detach().clone(), adams.detach().clone()
        feed(shampoo, ours, [g])
        feed(adam, adams, [g])
        step, size = ours.detach() - before, adams.detach() - befores
        assert step.norm() == pytest.approx(size.norm())
        assert torch.allclose(step, size) == (t < 5)  # Adam's own before there are roots


def test_what_is_not_preconditioned_takes_adams_step():
    for shape, table, keywords in [
        ((8,), False, {}),
        ((8, 3), True, {"graft": False}),
        ((8, 3), False, {"max_side": 7}),
        ((8, 3), False, {"max_side": 7, "graft": False}),
    ]:
        ours, adams = (Parameter(drawn(shape, 1, seed=1)[0]) for _ in range(2))
        grads = drawn(shape, 12)
        groups = [{"params": [ours], "table": table}]
        feed(Shampoo(groups, lr=0.1, betas=(B1, B2), weight_decay=WD, **keywords), ours, grads)
        feed(torch.optim.AdamW([adams], lr=0.1, betas=(B1, B2), weight_decay=WD), adams, grads)
        assert torch.allclose(ours, adams, rtol=1e-12)


def test_blocks_go_on_from_their_saved_state_to_the_same_bits():
    grads, keywords = drawn((9, 6), 8), {"every": 3, "block": 4, "stagger": True}
    through, halves = (Parameter(torch.zeros(9, 6, dtype=torch.float64)) for _ in range(2))
    feed(Shampoo([through], **keywords), through, grads)
    first, second = Shampoo([halves], **keywords), Shampoo([halves], **keywords)
    feed(first, halves, grads[:5])
    second.load_state_dict(first.state_dict())
    feed(second, halves, grads[5:])
    assert torch.equal(through, halves)
    assert second.state[halves]["left_root.4"].shape == (1, 1)


def test_no_step_is_slow_when_refreshes_are_staggered():
    together, apart = per_step_flops("shampoo", False), per_step_flops("shampoo", True)
    assert sum(apart) == sum(together)  # over whole periods
    assert max(apart) < 2 * sum(apart) / len(apart)
    assert max(together) > 2 * sum(together) / len(together)


def test_a_gradient_that_is_not_finite_is_left_to_who_watches_the_loss():
    p, grads = Parameter(torch.zeros(6, 4, dtype=torch.float64)), drawn((6, 4), 3)
    grads[1][0, 0] = torch.nan
    feed(Shampoo([p], every=2), p, grads)
    assert p.isnan().any()


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"power": 0.3}, "power must"),
        ({"eps": 0.0}, "eps must"),
        ({"every": 0}, "every must"),
        ({"max_side": 0}, "max_side must"),
        ({"block": 0}, "block must"),
    ],
)
def test_impossible_values(keywords, complaint):
    with pytest.raises(ValueError, match=complaint):
        Shampoo([Parameter(torch.zeros(2, 2))], **keywords)
