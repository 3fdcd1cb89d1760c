"""Each optimizer beside its equations, written naively in float64, and beside an independent implementation.

The naive versions follow the papers' notation, know nothing of groups, fusing or dtypes, and share no code with the
package. They are fed the gradients of the package's own run, so that nothing but the rule can differ.
"""

import pytest
import pytorch_optimizer
import torch
from torch import Tensor

import optimizers
from harness.labels import draw
from optimizers.curvature import GaussNewtonBartlett
from tests.recording import START, STEPS, Recording, decay
from tests.tiny import SEQUENCES, distance, tiny_batch, tiny_model, tiny_objective, weights


def test_adamw():
    lr, b1, b2, eps, wd = 1e-3, 0.9, 0.95, 1e-8, 0.1
    m, v = {}, {}

    def update(i, w, g, step):
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        v[i] = b2 * v.get(i, 0) + (1 - b2) * g**2
        t = step + 1
        w = w - lr * decay(w, wd) * w
        return w - lr * (m[i] / (1 - b1**t)) / ((v[i] / (1 - b2**t)) ** 0.5 + eps)

    run = Recording("adamw", lr=lr, betas=(b1, b2), eps=eps, weight_decay=wd, fused=True)
    assert run.off(update) < 1e-9


def test_lion():
    lr, b1, b2, wd = 3e-4, 0.95, 0.98, 0.5
    m = {}

    def update(i, w, g, step):
        c = b1 * m.get(i, 0 * g) + (1 - b1) * g
        m[i] = b2 * m.get(i, 0 * g) + (1 - b2) * g
        return w - lr * (torch.sign(c) + decay(w, wd) * w)

    assert Recording("lion", lr=lr, betas=(b1, b2), weight_decay=wd).off(update) < 1e-9


def test_lion_beside_pytorch_optimizer():
    model = tiny_model(dtype=torch.float64)
    theirs = pytorch_optimizer.Lion(
        [{"params": [p for p in model.parameters() if p.ndim >= 2]},
         {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=3e-4, betas=(0.95, 0.98), weight_decay=0.5, weight_decouple=True,
    )  # fmt: skip
    objective = tiny_objective(model, grad_clip=None)
    for step in range(STEPS):
        theirs.step(objective.bind(step, tiny_batch(step)))
    run = Recording("lion", lr=3e-4, betas=(0.95, 0.98), weight_decay=0.5)
    assert distance(run.end, weights(model), START) < 1e-12


def drawn_gradient(run: Recording, step: int, sequences: int) -> list[Tensor]:
    """Gradient of the mean loss, at the weights of a step, on the labels that this step drew."""
    model, inputs = run.at(step), tiny_batch(step)[0][:sequences]
    run.objective.bind(step, tiny_batch(step))
    labels = draw(model(inputs), run.objective._uniform(inputs, 0))
    return list(torch.autograd.grad(model(inputs, labels).mean, list(model.parameters())))


def test_sophia_g_as_printed():
    """Algorithm 3 with the estimator of algorithm 2, B the tokens behind the gradient on drawn labels."""
    lr, b1, b2, gamma, eps, k, wd = 1e-3, 0.96, 0.99, 0.05, 1e-12, 10, 0.2
    run = Recording("sophia_g", lr=lr, betas=(b1, b2), rho=gamma, eps=eps, every=k, weight_decay=wd, preset="paper")
    tokens = tiny_batch()[0].numel() // 2  # on half of the batch
    estimates = {
        step: [tokens * g**2 for g in drawn_gradient(run, step, SEQUENCES // 2)] for step in range(0, STEPS, k)
    }
    m, h = {}, {}

    def update(i, w, g, step):
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        if step % k == 0:
            h[i] = b2 * h.get(i, 0) + (1 - b2) * estimates[step][i]
        w = w - lr * decay(w, wd) * w
        return w - lr * torch.clip(m[i] / torch.clip(gamma * h[i], min=eps), -1, 1)

    assert run.off(update) < 1e-9
    win_rate = run.optimizer.metrics()["win_rate"].item()
    free = sum((m[i].abs() < torch.clip(gamma * h[i], min=eps)).sum().item() for i in m)
    assert win_rate == pytest.approx(free / sum(w.numel() for w in START), abs=1e-6)
    assert 0 < win_rate < 1


def test_sophia_g_as_the_authors_code_runs_it():
    """At steps k, 2k, ..., before the gradient, on the whole batch, from a norm-clipped gradient; no factor B in h."""
    lr, b1, b2, rho, k, wd = 1e-3, 0.965, 0.99, 0.04, 10, 0.2
    run = Recording("sophia_g", lr=lr, preset="repo", weight_decay=wd)
    tokens, estimates = tiny_batch()[0].numel(), {}
    for step in range(k, STEPS, k):
        grads = drawn_gradient(run, step, SEQUENCES)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        estimates[step] = [(g * min(1.0, 1.0 / (norm + 1e-6))) ** 2 for g in grads]
    m, h = {}, {}

    def update(i, w, g, step):
        if step in estimates:
            h[i] = b2 * h.get(i, 0 * g) + (1 - b2) * estimates[step][i]
        m[i] = b1 * m.get(i, 0 * g) + (1 - b1) * g
        ratio = torch.clip(m[i].abs() / (rho * tokens * h.get(i, 0 * g) + 1e-15), max=1)
        return w - lr * decay(w, wd) * w - lr * torch.sign(m[i]) * ratio

    assert run.off(update) < 1e-9


def test_sophia_with_the_clip_never_active_is_momentum_over_curvature():
    lr, huge = 1e-3, 1e9  # of rho: no momentum reaches the bound
    run = Recording("sophia_g", steps=1, lr=lr, rho=huge, weight_decay=0.0)
    for p, start in zip(run.model.parameters(), START, strict=True):
        state = run.optimizer.state[p]
        curved = state["h"] > 1e-6 * state["h"].max()  # not itself at the floor
        assert curved.any()
        expected = start - lr * state["m"] / (huge * state["h"])
        assert torch.allclose(p[curved], expected[curved], rtol=1e-12)


def test_sophia_without_curvature_is_sign_momentum():
    lr, b1, m = 1e-3, 0.965, {}
    run = Recording("sophia_g", steps=10, lr=lr, preset="repo", weight_decay=0.0)  # h is 0 until step 10

    def update(i, w, g, step):
        m[i] = b1 * m.get(i, 0) + (1 - b1) * g
        return w - lr * torch.where(m[i].abs() > 1e-15, torch.sign(m[i]), m[i] / 1e-15)

    assert run.off(update) < 1e-9


def test_sophia_g_costs_what_the_paper_says():
    """1.05 times AdamW's FLOPs as printed (half a batch every 10 steps), 1.10 times as the authors' code runs it."""
    for preset, factor in [("paper", 1.05), ("repo", 1.10)]:
        model = tiny_model()
        optimizer = optimizers.build_optimizer("sophia_g", model, lr=1e-4, preset=preset)
        objective = tiny_objective(model)
        for step in range(101 if preset == "repo" else 100):
            optimizer.step(objective.bind(step, tiny_batch(step)))
        ledger = objective.ledger
        ran = 100 if preset == "paper" else 101
        assert (ledger.model * 100 / ran + ledger.curvature) / (ledger.model * 100 / ran) == pytest.approx(
            factor, rel=1e-9
        )


def test_gauss_newton_bartlett_is_unbiased():
    """Against the exact diagonal of the Gauss-Newton matrix; the error falls as one over the root of the samples."""
    model = tiny_model(dtype=torch.float64, layers=1, heads=1, width=4, vocabulary=8)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randint(0, 8, (SEQUENCES, 3), generator=generator) for _ in range(2))
    parameters = list(model.parameters())
    logits = model(inputs).flatten(0, 1)  # (tokens, vocabulary)
    rows = []
    for row in logits:
        jacobian = torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True,
                                                                 materialize_grads=True)]) for z in row]
        )  # (vocabulary, parameters)  # fmt: skip
        p = row.softmax(0).detach()
        rows.append(torch.einsum("vp,vw,wp->p", jacobian, torch.diag(p) - torch.outer(p, p), jacobian))
    exact = torch.stack(rows).mean(0)

    objective = tiny_objective(model, grad_clip=None)
    estimate = GaussNewtonBartlett()
    samples = torch.stack(
        [torch.cat([e.flatten() for e in estimate(objective.bind(s, (inputs, targets)))]) for s in range(1600)]
    )

    def error(count: int) -> float:
        """Root mean square distance of means of `count` samples from the exact diagonal."""
        means = torch.stack([chunk.mean(0) for chunk in samples.split(count)])
        return (means - exact).norm(dim=1).square().mean().sqrt().item()

    assert ((samples.mean(0) - exact).norm() / exact.norm()).item() < 0.1
    assert error(8) / error(128) == pytest.approx(4, rel=0.25)
