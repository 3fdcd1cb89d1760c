"""Sophia-H, AdaHessian and LAMB beside their equations in float64 and beside independent implementations."""

import math
from functools import partial

import pytest
import pytorch_optimizer
import torch

import optimizers
from optimizers.adahessian import average_block_
from optimizers.curvature import Hutchinson
from tests.recording import START, STEPS, Recording, decay
from tests.tiny import CONTEXT, SEQUENCES, distance, tiny_batch, tiny_model, tiny_objective, weights


def probe_products(run: Recording, step: int, sequences: int, rademacher: bool) -> list[torch.Tensor]:
    """u * (H u) at the weights of a step on its first sequences, by differentiating twice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = run.at(step)
    parameters = list(model.parameters())
    objective = run.objective.bind(step, tiny_batch(step))
    probes = [Hutchinson(rademacher)._draw(p, objective.generator(("probe", i))) for i, p in enumerate(parameters)]
    with sdpa_kernel(SDPBackend.MATH):
        loss = model(*(t[:sequences] for t in tiny_batch(step))).mean
    grads = torch.autograd.grad(loss, parameters, create_graph=True)
    dot = sum((g * u).sum() for g, u in zip(grads, probes, strict=True))
    return [u * hu for u, hu in zip(probes, torch.autograd.grad(dot, parameters), strict=True)]


def test_sophia_h_as_printed():
    """Algorithm 3 with algorithm 1's estimator, on a quarter of the batch."""
    lr, b1, b2, gamma, eps, k, wd = 1e-3, 0.96, 0.99, 0.01, 1e-12, 10, 0.2
    run = Recording("sophia_h", lr=lr, share=0.25, weight_decay=wd)
    estimates = {step: probe_products(run, step, SEQUENCES // 4, False) for step in range(0, STEPS, k)}
    m, h = {}, {}

    def update(i, w, g, step):
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        if step in estimates:
            h[i] = b2 * h.get(i, 0) + (1 - b2) * estimates[step][i]
        w = w - lr * decay(w, wd) * w
        return w - lr * torch.clip(m[i] / torch.clip(gamma * h[i], min=eps), -1, 1)

    assert run.off(update) < 1e-9


@pytest.mark.parametrize(
    ("every", "block"), [*(pytest.param(1, block, marks=pytest.mark.slow) for block in (8, None)), (5, 1)]
)
def test_adahessian(every, block):
    lr, b1, b2, eps, power, wd = 0.05, 0.9, 0.99, 1e-4, 0.8, 0.1
    run = Recording(
        "adahessian", lr=lr, betas=(b1, b2), eps=eps, hessian_power=power, block=block, every=every, weight_decay=wd
    )
    estimates = {step: probe_products(run, step, SEQUENCES, True) for step in range(0, STEPS, every)}
    m, v, count = {}, {}, {}

    def averaged(d):
        d = d.abs().clone()
        if d.ndim == 2 and block != 1:
            size = d.shape[1] if block is None else block
            for row in d:
                for start in range(0, len(row), size):
                    row[start : start + size] = row[start : start + size].mean()
        return d

    def update(i, w, g, step):
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        if step in estimates:
            v[i] = b2 * v.get(i, 0) + (1 - b2) * averaged(estimates[step][i]) ** 2
            count[i] = count.get(i, 0) + 1
        corrected = v[i] / (1 - b2 ** count[i])
        w = w - lr * decay(w, wd) * w
        return w - lr * (m[i] / (1 - b1 ** (step + 1))) / (corrected ** (power / 2) + eps)

    assert run.off(update) < 1e-9


def test_a_parameter_that_has_no_estimate_yet_waits_for_one():
    """Its first gradient comes on a step without an estimate: 0 / 0 otherwise."""
    model = tiny_model()
    model.late = torch.nn.Parameter(torch.ones(()))
    optimizer = optimizers.build_optimizer("adahessian", model, lr=1e-3, every=5)
    objective, forward = tiny_objective(model), type(model).forward
    values = []

    def with_late(inputs, targets, now):
        losses = forward(model, inputs, targets)
        return losses._replace(sum=losses.sum * (model.late**2 if now else 1.0))

    for step in range(12):
        model.forward = partial(with_late, now=step)
        optimizer.step(objective.bind(step, tiny_batch(step)))
        values.append(model.late.item())
    assert values[:5] == [1.0] * 5  # the estimates are of steps 0, 5 and 10
    assert all(math.isfinite(value) for value in values)
    assert values[5] != 1.0


def test_adahessian_given_the_hessian_beside_pytorch_optimizer():
    """Theirs does not average, so neither does ours here; the same D goes into both."""
    run = Recording("adahessian", lr=0.05, betas=(0.9, 0.99), block=1, weight_decay=0.1)
    model = tiny_model(dtype=torch.float64)
    theirs = pytorch_optimizer.AdaHessian(
        [{"params": [p for p in model.parameters() if p.ndim >= 2]},
         {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=0.05, betas=(0.9, 0.99), weight_decay=0.1, weight_decouple=True, hessian_power=1.0, eps=1e-4,
    )  # fmt: skip
    order = {id(p): i for i, p in enumerate(model.parameters())}
    for step in range(STEPS):
        for p, g in zip(model.parameters(), run.grads[step], strict=True):
            p.grad = g.clone()
        d = probe_products(run, step, SEQUENCES, True)
        theirs.step(hessian=[d[order[id(p)]] for group in theirs.param_groups for p in group["params"]])
    assert distance(run.end, weights(model), START) < 1e-9


@pytest.mark.slow
def test_hutchinson_is_unbiased():
    """Its mean is the exact diagonal, for both probes; the error falls as one over the root of the samples."""
    model = tiny_model(dtype=torch.float64, layers=1, heads=1, width=4, vocabulary=8)
    generator = torch.Generator().manual_seed(0)
    batch = tuple(torch.randint(0, 8, (SEQUENCES, 3), generator=generator) for _ in range(2))
    objective = tiny_objective(model, grad_clip=None).bind(0, batch)
    parameters = list(model.parameters())
    exact = []
    for i, p in enumerate(parameters):
        for j in range(p.numel()):
            unit = [torch.zeros_like(q) for q in parameters]
            unit[i].view(-1)[j] = 1
            exact.append(objective.hvp(unit)[i].view(-1)[j])
    exact = torch.stack(exact)
    for rademacher in (False, True):
        estimate = Hutchinson(rademacher)
        samples = torch.stack(
            [torch.cat([e.flatten() for e in estimate(objective.bind(s, batch))]) for s in range(480)]
        )

        def error(count: int, samples=samples) -> float:
            means = torch.stack([chunk.mean(0) for chunk in samples.split(count)])
            return (means - exact).norm(dim=1).square().mean().sqrt().item()

        assert ((samples.mean(0) - exact).norm() / exact.norm()).item() < 0.25
        assert error(4) / error(64) == pytest.approx(4, rel=0.3)


def test_a_hessian_vector_product_makes_adahessian_three_times_adamw():
    """9 F a step beside Adam's 3 F, as for its authors: the gradient is differentiated in the pass that makes it."""
    model = tiny_model()
    objective = tiny_objective(model)
    optimizer = optimizers.build_optimizer("adahessian", model, lr=1e-3)
    for step in range(3):
        optimizer.step(objective.bind(step, tiny_batch(step)))
    assert objective.ledger.curvature / objective.ledger.model == pytest.approx(2, rel=0.05)
    assert objective.ledger.model == 3 * model.flops_per_token(CONTEXT) * SEQUENCES * CONTEXT


def test_blocks_of_a_row():
    def block_mean(d, block):
        squares = torch.zeros_like(d)
        average_block_(squares, d, 1.0, block)
        return squares.sqrt()

    d = torch.arange(12.0).view(2, 6)
    assert block_mean(d, 3).tolist() == [[1, 1, 1, 4, 4, 4], [7, 7, 7, 10, 10, 10]]
    assert block_mean(d, None).tolist() == [[2.5] * 6, [8.5] * 6]
    assert block_mean(d, 4).tolist() == [[2.5] * 6, [8.5] * 6]  # 4 does not divide 6
    assert torch.equal(block_mean(d, 1), d)
    assert torch.equal(block_mean(d[0], 3), d[0])


@pytest.mark.parametrize(("bias_correction", "max_grad_norm"), [(True, 0.5), (False, None)])
def test_lamb(bias_correction, max_grad_norm):
    lr, b1, b2, eps, wd = 5e-3, 0.9, 0.99, 1e-6, 0.05
    run = Recording("lamb", lr=lr, betas=(b1, b2), eps=eps, weight_decay=wd, bias_correction=bias_correction,
                    max_grad_norm=max_grad_norm)  # fmt: skip
    m, v = {}, {}

    def update(i, w, g, step):
        norm = torch.cat([x.flatten() for x in run.grads[step]]).norm()
        if max_grad_norm is not None:
            g = g / max(1.0, (norm / max_grad_norm).item())
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        v[i] = b2 * v.get(i, 0) + (1 - b2) * g**2
        c1, c2 = (1 - b1 ** (step + 1), 1 - b2 ** (step + 1)) if bias_correction else (1, 1)
        u = (m[i] / c1) / ((v[i] / c2) ** 0.5 + eps) + decay(w, wd) * w
        return w - lr * (w.norm() / u.norm() if w.ndim >= 2 else 1) * u

    assert run.off(update) < 1e-9


def test_lamb_beside_pytorch_optimizer():
    """There are no bias corrections, for theirs has none; theirs scales vectors too, so only matrices are compared."""
    run = Recording("lamb", lr=5e-3, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.05, bias_correction=False,
                    max_grad_norm=None)  # fmt: skip
    model = tiny_model(dtype=torch.float64)
    matrices = [i for i, p in enumerate(model.parameters()) if p.ndim >= 2]
    theirs = pytorch_optimizer.Lamb(
        [p for p in model.parameters() if p.ndim >= 2], lr=5e-3, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.05,
        weight_decouple=False, adam_debias=True,
    )  # fmt: skip
    for grads in run.grads:
        for p, g in zip(model.parameters(), grads, strict=True):
            p.grad = g.clone()
        theirs.step()
    result = weights(model)
    assert distance([run.end[i] for i in matrices], [result[i] for i in matrices], [START[i] for i in matrices]) < 1e-9
