"""SOAP beside its equations, beside another implementation, and where it must equal AdamW.

The first G G^T has a null space with no basis of its own, so the references take over our bases after the first call.
"""

from itertools import pairwise

import pytest
import pytorch_optimizer
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers
from harness.rehearsal import Rehearsal
from optimizers.param_groups import decayed
from optimizers.soap import SOAP
from tests.recording import START, STEPS, Recording, decay
from tests.test_eigenbasis import drawn
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, train, weights

LR, B1, B2, EPS, WD = 3e-3, 0.9, 0.95, 1e-8, 0.1
KEYWORDS = {"lr": LR, "betas": (B1, B2), "eps": EPS, "weight_decay": WD}
FUSED = {**KEYWORDS, "split_qkv": False}  # tests/test_pieces.py has the other way


def bases(**keywords) -> list[list[Tensor | None]]:
    """[QL, QR] of each parameter after the first call."""
    run = Recording("soap", steps=1, **keywords)
    states = [run.optimizer.state[p] for p in run.model.parameters()]
    return [[state.get("left_basis"), state.get("right_basis")] for state in states]


def rotated(x: Tensor, q: list[Tensor | None]) -> Tensor:
    x = x if q[0] is None else q[0].T @ x
    return x if q[1] is None else x @ q[1]


def rotated_back(x: Tensor, q: list[Tensor | None]) -> Tensor:
    x = x if q[0] is None else q[0] @ x
    return x if q[1] is None else x @ q[1].T


def naive(first, every=10, factorized=False, shampoo_beta=B2, normalize_grads=False, correct_bias=True):
    """Algorithm 3 with the momentum in the parameters' own coordinates and the whole of L and R."""
    q, gg, m, v, rows, columns = first, {}, {}, {}, {}, {}

    def second_moment(i, squared):
        if factorized and squared.ndim == 2:
            rows[i] = B2 * rows.get(i, 0) + (1 - B2) * squared.sum(1)
            columns[i] = B2 * columns.get(i, 0) + (1 - B2) * squared.sum(0)
            return torch.outer(rows[i], columns[i]) / rows[i].sum()
        v[i] = B2 * v.get(i, 0) + (1 - B2) * squared
        return v[i]

    def average(i, g):
        old = gg.get(i, [0, 0])
        b3 = shampoo_beta
        gg[i] = [b3 * old[0] + (1 - b3) * g @ g.T, b3 * old[1] + (1 - b3) * g.T @ g] if g.ndim == 2 else old

    def update(i, w, g, t):
        if t > 0:
            m[i] = B1 * m.get(i, 0) + (1 - B1) * g
            root = second_moment(i, rotated(g, q[i]) ** 2) ** 0.5
            step = rotated_back(rotated(m[i], q[i]) / (root + EPS), q[i])
            if normalize_grads:
                step = step / step.square().mean().sqrt()
            w = w - LR * ((1 - B2**t) ** 0.5 / (1 - B1**t) if correct_bias else 1) * step
            w = w - LR * decay(w, WD) * w
        average(i, g)
        if t > 0 and t % every == 0:
            for axis in (0, 1):
                if q[i][axis] is not None:
                    order = torch.diag(q[i][axis].T @ gg[i][axis] @ q[i][axis]).argsort(descending=True)
                    q[i][axis] = torch.linalg.qr(gg[i][axis] @ q[i][axis][:, order]).Q
                    for sums in (v, rows if axis == 0 else columns):
                        if i in sums:
                            sums[i] = sums[i].index_select(axis if sums is v else 0, order)
        return w

    return update


@pytest.mark.parametrize(
    "variant",
    [
        {},
        pytest.param({"factorized": True}, marks=pytest.mark.slow),
        pytest.param({"one_sided": True, "every": 7}, marks=pytest.mark.slow),
        {"one_sided": True, "factorized": True},
        {"max_side": 40, "every": 3},
        pytest.param({"shampoo_beta": 0.98}, marks=pytest.mark.slow),
        {"correct_bias": False, "every": 60},
        {"normalize_grads": True, "every": 60},
    ],
    ids=str,
)
def test_soap(variant):
    """The intervals are such that QR meets no column of zeros before the last, where rounding would choose the basis.

    It may where a factor is singular: before so many gradients as give it full rank, and in the direction of the mean,
    which LayerNorm takes from all that is read from the residual stream.
    """
    run = Recording("soap", **FUSED, **variant)
    known = {key: value for key, value in variant.items() if key not in ("one_sided", "max_side")}
    reference = naive(bases(**FUSED, **variant), **known)
    assert run.off(reference) < 1e-9


def test_which_sides_are_rotated():
    def sides(shape, table=False, **keywords):
        p = Parameter(torch.zeros(shape))
        return SOAP([{"params": [p], "table": table}], **keywords).matrices[p][0].sides

    assert sides((96, 32)) == sides((32, 96)) == [0, 1]
    assert sides((96, 32), max_side=95) == [1]
    assert sides((96, 32), max_side=31) == []
    assert sides((96, 32), one_sided=True) == sides((32, 32), one_sided=True) == [1]
    assert sides((32, 96), one_sided=True) == [0]
    assert sides((16, 32), table=True) == sides((16, 32), table=True, one_sided=True) == [1]
    assert sides((50304, 768)) == [1]
    assert sides((96,)) == []
    model = tiny_model()
    soap = optimizers.build_optimizer("soap", model)
    assert [soap.matrices[p][0].sides for p in (model.embedding.weight, model.positions.weight)] == [[1], [1]]


def test_soap_beside_pytorch_optimizer(monkeypatch):
    """It goes by shape alone, tables too; has the momentum unrotated; and QR in float32, which here is float64."""
    ours, theirs = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64)
    soap = SOAP([{**group, "table": False} for group in decayed(ours.parameters())], **KEYWORDS)
    other = pytorch_optimizer.SOAP(decayed(theirs.parameters()), **KEYWORDS)
    objectives = [tiny_objective(model, grad_clip=None) for model in (ours, theirs)]
    for step in range(STEPS):
        soap.step(objectives[0].bind(step, tiny_batch(step)))
        objectives[1].bind(step, tiny_batch(step))()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)
            other.step()
        if step == 0:
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                if p.ndim == 2:
                    other.state[q]["Q"] = [soap.state[p][f"{side}_basis"].clone() for side in ("left", "right")]
    assert distance(weights(ours), weights(theirs), START) < 1e-9


def feed(optimizer: torch.optim.Optimizer, p: Parameter, grads: list[Tensor]) -> None:
    for g in grads:
        p.grad = g.clone()
        optimizer.step(lambda: torch.zeros(()))


@pytest.mark.parametrize("side", [12, 8, 1])
def test_without_a_rotation_soap_is_adamw_a_step_late(side):
    """Q = I by hand, or for want of a short side, and never refreshed.

    AdamW decays before its update: with d = 1 - lr wd, its weights from w / d on, times d, are those of a decay after
    it. Its eps is scaled otherwise, hence 1e-30.
    """
    grads = drawn((12, 8), 30)
    ours = Parameter(drawn((12, 8), 1, seed=1)[0])
    d = 1 - LR * WD
    theirs = Parameter(ours.detach() / d)
    soap = SOAP([ours], lr=LR, betas=(B1, B2), eps=1e-30, weight_decay=WD, every=10**6, max_side=side)
    before = ours.detach().clone()
    feed(soap, ours, grads[:1])
    assert torch.equal(ours, before)
    for key, n in (("left_basis", 12), ("right_basis", 8)):
        if key in soap.state[ours]:
            soap.state[ours][key] = torch.eye(n, dtype=torch.float64)
    feed(soap, ours, grads[1:])
    feed(torch.optim.AdamW([theirs], lr=LR, betas=(B1, B2), eps=1e-30, weight_decay=WD), theirs, grads[1:])
    assert distance([ours.detach()], [theirs.detach() * d], [before]) < 1e-12


def test_a_gradient_is_never_seen_in_a_basis_made_from_itself():
    """What the basis is refreshed from at step k moves the weights from step k + 1 on."""
    grads = drawn((6, 5), 5)
    ends = []
    for every in (3, 1000):
        p = Parameter(torch.zeros(6, 5, dtype=torch.float64))
        soap = SOAP([p], lr=LR, every=every)
        feed(soap, p, grads[:4])  # t = 0 to 3
        at_the_refresh = p.detach().clone()
        feed(soap, p, grads[4:])
        ends.append((at_the_refresh, p.detach().clone()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.allclose(ends[0][1], ends[1][1])


def per_step_flops(name: str, stagger: bool, periods: int = 3, layers: int = 4, **keywords) -> list[int]:
    """What is charged for each step of whole periods of 10, once all matrices have been refreshed."""
    model = tiny_model(layers=layers)
    optimizer = optimizers.build_optimizer(name, model, stagger=stagger, **keywords)
    objective, charged = Rehearsal(list(model.parameters())), []
    for _ in range(10 * (periods + 2) + 1):
        optimizer.step(objective)
        charged.append(objective.charged)
    return [after - before for before, after in pairwise(charged[20:])]


def test_no_step_is_slow_when_refreshes_are_staggered():
    together, apart = per_step_flops("soap", False), per_step_flops("soap", True)
    assert sum(apart) == sum(together)
    assert max(apart) < 2 * sum(apart) / len(apart)
    assert max(together) > 2 * sum(together) / len(together)


def test_staggered_refreshes_train_as_well():
    def loss(stagger: bool) -> float:
        model = tiny_model()
        losses = train(model, optimizers.build_optimizer("soap", model, stagger=stagger), tiny_objective(model), 60)
        return sum(losses[-5:]) / 5

    assert loss(True) == pytest.approx(loss(False), abs=0.05)


def test_a_gradient_that_is_not_finite_is_left_to_who_watches_the_loss():
    for grads in (drawn((6, 4), 1), drawn((6, 4), 12)):
        p = Parameter(torch.zeros(6, 4, dtype=torch.float64))
        grads[-1][0, 0] = torch.nan
        feed(SOAP([p]), p, [*grads, *grads[:1]])
        assert p.isnan().any()


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"every": 0}, "every must"),
        ({"max_side": 0}, "max_side must"),
        ({"block": 0}, "block must"),
        ({"betas": (0.9, 1.0)}, "betas must"),
        ({"eps": -1.0}, "eps must"),
    ],
)
def test_impossible_values(keywords, complaint):
    with pytest.raises(ValueError, match=complaint):
        SOAP([Parameter(torch.zeros(2, 2))], **keywords)


def test_the_condition_of_the_factors_is_logged():
    p = Parameter(torch.zeros(4, 4, dtype=torch.float64))
    soap = SOAP([p])
    assert soap.metrics() == {}
    feed(soap, p, [torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))])
    assert float(soap.metrics()["condition"]) == pytest.approx(16)
