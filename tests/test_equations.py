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
from optimizers import NorMuon
from optimizers.curvature import GaussNewtonBartlett
from optimizers.muon import newton_schulz
from optimizers.param_groups import decayed
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


@pytest.mark.parametrize(
    ("nesterov", "split", "scale"), [(True, True, "spectral"), (False, False, "spectral"), (True, True, "match_rms")]
)
def test_muon(nesterov, split, scale):
    lr, mu, wd, lr2, b1, b2, eps = 0.02, 0.95, 0.1, 1e-3, 0.9, 0.95, 1e-8
    m, v, names = {}, {}, [n for n, _ in tiny_model().named_parameters()]

    def hidden(i):
        return names[i].startswith("blocks.") and "norm" not in names[i]

    def update(i, w, g, step):
        if not hidden(i):
            m[i] = b1 * m.get(i, 0) + (1 - b1) * g
            v[i] = b2 * v.get(i, 0) + (1 - b2) * g**2
            t = step + 1
            w = w - lr2 * decay(w, wd) * w
            return w - lr2 * (m[i] / (1 - b1**t)) / ((v[i] / (1 - b2**t)) ** 0.5 + eps)
        m[i] = mu * m.get(i, 0) + (1 - mu) * g
        x = (1 - mu) * g + mu * m[i] if nesterov else m[i]
        return (
            w
            - lr * wd * w
            - lr * torch.cat([step_of(part) for part in x.chunk(3 if split and "qkv" in names[i] else 1)])
        )

    def step_of(x):
        x = x / torch.linalg.matrix_norm(x)
        for _ in range(5):  # p(X) = a X + b X X'X + c (X X')^2 X
            x = 3.4445 * x - 4.775 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        rows, columns = x.shape
        return x * (max(1, rows / columns) ** 0.5 if scale == "spectral" else 0.2 * max(rows, columns) ** 0.5)

    keywords = {"split_qkv": split, "scale": scale} | {
        "momentum": mu,
        "nesterov": nesterov,
        "weight_decay": wd,
        "adamw_lr": lr2,
        "adamw_betas": (b1, b2),
    }
    assert Recording("muon", lr=lr, **keywords).off(update) < 1e-9


@pytest.mark.parametrize(("scale", "theirs"), [("spectral", "original"), ("match_rms", "match_rms_adamw")])
def test_muon_beside_torch(scale, theirs, monkeypatch):
    """torch hard-codes a bfloat16 iteration: here it is kept in float64, so that the rest can be held to 1e-6."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    model = tiny_model(dtype=torch.float64)
    hidden = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not q for q in hidden)]
    muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=theirs)
    adamw = torch.optim.AdamW(
        decayed(rest), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
    )  # fmt: skip
    objective = tiny_objective(model, grad_clip=None)
    for step in range(STEPS):
        objective.bind(step, tiny_batch(step))()
        muon.step()
        adamw.step()
    keywords = {"momentum": 0.95, "weight_decay": 0.1, "adamw_lr": 1e-3, "split_qkv": False, "scale": scale}
    run = Recording("muon", lr=0.02, **keywords)
    assert distance(run.end, weights(model), START) < 1e-6


@pytest.mark.parametrize("split", [True, False])
def test_normuon(split):
    lr, mu, b2, wd, eps = 0.02, 0.95, 0.9, 0.1, 1e-10
    m, v, names = {}, {}, [n for n, _ in tiny_model().named_parameters()]
    hidden = {i for i, n in enumerate(names) if n.startswith("blocks.") and "norm" not in n}

    def update(i, w, g, step):
        m[i] = mu * m.get(i, 0) + (1 - mu) * g
        x, steps = (1 - mu) * g + mu * m[i], []
        for k, part in enumerate(x.chunk(3 if split and "qkv" in names[i] else 1)):
            o = part / torch.linalg.matrix_norm(part)
            for _ in range(5):
                o = 3.4445 * o - 4.775 * o @ o.T @ o + 2.0315 * o @ o.T @ o @ o.T @ o
            v[i, k] = b2 * v.get((i, k), 0) + (1 - b2) * (o**2).sum(1) / o.shape[1]
            even = o / (v[i, k][:, None] ** 0.5 + eps)
            length = (o**2).sum() ** 0.5 / ((even**2).sum() ** 0.5 + eps)
            steps.append(max(1, o.shape[0] / o.shape[1]) ** 0.5 * even * length)
        return w - lr * wd * w - lr * torch.cat(steps)

    run = Recording("normuon", lr=lr, momentum=mu, beta2=b2, weight_decay=wd, split_qkv=split, adamw_lr=0.0)
    assert run.off(lambda i, w, g, step: update(i, w, g, step) if i in hidden else w) < 1e-9


def test_normuon_beside_pytorch_optimizer(monkeypatch):
    """Theirs iterates in bfloat16 and has no split: here it takes our iteration, whose equations Muon's tests hold."""
    monkeypatch.setattr(
        "pytorch_optimizer.optimizer.muon.normuon.zero_power_via_newton_schulz_5",
        lambda update, num_steps, weights: newton_schulz(update, num_steps),
    )
    model = tiny_model(dtype=torch.float64)
    hidden = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    theirs = pytorch_optimizer.NorMuon(
        [{"params": hidden, "use_muon": True}], lr=0.02, momentum=0.95, beta2=0.9, weight_decay=0.1, eps=1e-10,
        use_adjusted_lr=False, foreach=False,
    )  # fmt: skip
    objective = tiny_objective(model, grad_clip=None)
    for step in range(STEPS):
        objective.bind(step, tiny_batch(step))()
        theirs.step()
    keywords = {"momentum": 0.95, "beta2": 0.9, "weight_decay": 0.1, "adamw_lr": 0.0, "split_qkv": False}
    run = Recording("normuon", lr=0.02, **keywords)
    assert distance(run.end, weights(model), START) < 1e-9


def test_a_transposed_matrix_has_rows_of_outputs_too():
    torch.manual_seed(0)
    plain = torch.nn.Parameter(torch.randn(6, 10, dtype=torch.float64))
    turned = torch.nn.Parameter(plain.detach().T.clone())
    pair = [(plain, False), (turned, True)]
    optimizers_ = [NorMuon([{"params": [p], "hidden": True, "transposed": t}], lr=0.1) for p, t in pair]
    for _ in range(3):
        gradient = torch.randn(6, 10, dtype=torch.float64)
        plain.grad, turned.grad = gradient, gradient.T.clone()
        for optimizer in optimizers_:
            optimizer.step()
    assert torch.allclose(plain, turned.T, rtol=1e-9)


def test_queries_and_keys_of_a_fused_qkv_step_as_far_as_values_do():
    """With momenta a tenth as large they would take .39 where values take 1.45, were the three one matrix."""
    width = 48
    model = tiny_model(width=width, dtype=torch.float64)
    name, qkv = next((n, p) for n, p in model.named_parameters() if n.endswith("qkv.weight"))
    size = torch.tensor([0.1, 0.1, 1.0], dtype=torch.float64).repeat_interleave(width)[:, None]
    for split, equal in ((True, True), (False, False)):
        optimizer = optimizers.build_optimizer("muon", model, lr=1.0, weight_decay=0.0, split_qkv=split)
        before = qkv.detach().clone()
        qkv.grad = size * torch.randn(qkv.shape, dtype=qkv.dtype, generator=torch.Generator().manual_seed(0))
        optimizer.step(lambda: torch.zeros(()))
        q, k, v = ((qkv.detach() - before).square().mean(1).sqrt().view(3, width).mean(1) * width**0.5).tolist()
        assert (q > 0.8 * v) == (k > 0.8 * v) == equal, (name, split)


def test_without_a_rate_of_its_own_adamw_has_muons():
    optimizer = optimizers.build_optimizer("muon", tiny_model(), lr=3e-3, scale="match_rms", adamw_lr=None)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-3}


def test_newton_schulz_pushes_all_singular_values_towards_one():
    generator = torch.Generator().manual_seed(0)
    for shape in [(3, 16, 64), (3, 64, 16), (2, 32, 32)]:
        matrices = torch.randn(shape, dtype=torch.float64, generator=generator)
        result = newton_schulz(matrices, 5)
        assert result.shape == matrices.shape
        u, s, vh = torch.linalg.svd(result, full_matrices=False)
        assert s.min() > 0.3
        assert s.max() < 1.3
        exact = torch.linalg.svd(matrices, full_matrices=False)
        assert torch.allclose(u @ vh, exact.U @ exact.Vh, atol=1e-6)  # the singular vectors are left alone


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
