"""Muon and NorMuon beside their equations in float64, and beside torch's and pytorch_optimizer's implementations.

The naive versions are those of tests/test_equations.py: they share no code with the package.
"""

import pytest
import pytorch_optimizer
import torch

import optimizers
from optimizers import NorMuon
from optimizers.newton_schulz import newton_schulz
from optimizers.param_groups import decayed
from tests.recording import START, STEPS, Recording, decay
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights


@pytest.mark.parametrize(
    ("nesterov", "split", "scale"),
    [
        (True, True, "spectral"),
        (False, False, "spectral"),
        pytest.param(True, True, "match_rms", marks=pytest.mark.slow),
    ],
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


@pytest.mark.parametrize("split", [True, pytest.param(False, marks=pytest.mark.slow)])
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
