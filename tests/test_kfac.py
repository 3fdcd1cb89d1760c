"""K-FAC beside its equations, with whole Kronecker products; what its options promise."""

import io

import pytest
import torch

import optimizers
from tests.oracle import Run, joined, put
from tests.tiny import tiny_batch, tiny_model, tiny_objective, train, weights


@pytest.mark.parametrize(
    ("method", "bias", "backend"),
    [("eigen", False, "sgd"), ("inverse", True, "sgd"), ("eigen", True, "sgd"), ("inverse", False, "adamw")],
)
def test_equations(method, bias, backend):
    """The clip is at work in some steps and not in others."""
    lr, damping, f, clip, momentum, wd = 0.02, 1e-3, 0.9, (2e-3 if bias else 5e-6), 0.8, 0.05
    run = Run("kfac", bias, lr=lr, damping=damping, factor_decay=f, kl_clip=clip, every_factor=2, every_inverse=6,
              method=method, split_qkv=False, backend=backend, betas=(0.8, 0.9), momentum=momentum,
              weight_decay=wd)  # fmt: skip
    a_factor, g_factor, inverse, buffer, squares, clipped = {}, {}, {}, {}, {}, []

    def backends_step(name, w, v, decay, t):
        if backend == "sgd":
            buffer[name] = momentum * buffer.get(name, 0.0) + v + decay * w
            return w - lr * buffer[name]
        buffer[name] = 0.8 * buffer.get(name, 0.0) + 0.2 * v
        squares[name] = 0.9 * squares.get(name, 0.0) + 0.1 * v**2
        root = (squares[name] / (1 - 0.9**t)) ** 0.5
        return w - lr * decay * w - lr * buffer[name] / (1 - 0.8**t) / (root + 1e-8)

    def identity(matrix):
        return torch.eye(len(matrix), dtype=matrix.dtype)

    def update(step, w, grads):
        v = dict(grads)
        rows = run.rows(step) if step % 2 == 0 else dict.fromkeys(a_factor, (None, None))
        for name, (a, g) in rows.items():
            if step % 2 == 0:
                a, g = a.T @ a / len(a), g.T @ g / len(g)
                a_factor[name] = f * a_factor.get(name, identity(a)) + (1 - f) * a
                g_factor[name] = f * g_factor.get(name, identity(g)) + (1 - f) * g
            if step % 6 == 0:
                a, g = a_factor[name], g_factor[name]
                if method == "eigen":  # of the damped product itself, in all its (out in)^2 entries
                    product = torch.kron(g, a)
                    inverse[name] = torch.linalg.inv(product + damping * identity(product))
                else:
                    g, a = (torch.linalg.inv(factor + damping * identity(factor)) for factor in (g, a))
                    inverse[name] = torch.kron(g, a)
            dw = joined(grads, name)
            put(v, name, (inverse[name] @ dw.flatten()).view_as(dw))
        size = sum((joined(v, name) * joined(grads, name)).sum() for name in rows) * lr**2
        scale = min(1.0, (clip / size).sqrt().item())
        clipped.append(scale < 1)
        for name in rows:
            put(v, name, scale * joined(v, name))
        decays = {name: wd if w[name].ndim == 2 else 0.0 for name in w}
        return {name: backends_step(name, w[name], v[name], decays[name], step + 1) for name in w}

    assert run.off(update) < 1e-9
    assert 0 < sum(clipped) < run.steps


def test_without_a_clip_and_with_much_damping_it_is_sgd():
    """(F + damping I)^-1 is nearly I / damping; so K-FAC at a rate of lr damping for hidden layers is SGD at lr."""
    damping, lr = 1e9, 0.1
    ours, theirs = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64)
    keywords = {"damping": damping, "kl_clip": None, "every_factor": 1, "every_inverse": 1}
    kfac = optimizers.build_optimizer("kfac", ours, lr=lr, momentum=0.9, **keywords)
    sgd = torch.optim.SGD(theirs.parameters(), lr=lr, momentum=0.9)
    hidden = {layer.weight for layer in kfac.activations.layers}
    objective, plain = tiny_objective(ours), tiny_objective(theirs)
    for step in range(5):
        before = weights(ours)
        kfac.step(objective.bind(step, tiny_batch(step)))
        sgd.step(plain.bind(step, tiny_batch(step)))
        with torch.no_grad():  # scale the layers' steps up again
            for p, old in zip(ours.parameters(), before, strict=True):
                if p in hidden:
                    p.copy_(old + damping * (p - old))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(weights(ours), weights(theirs), strict=True))


def test_the_condition_is_that_of_what_is_inverted():
    run = Run("kfac", steps=5, every_factor=1, every_inverse=1, damping=1e-3, split_qkv=False)
    expected = []
    for name in run.rows(0):
        state = run.state(name)
        product = torch.kron(state["G"], state["A"])
        expected.append(torch.linalg.cond(product + 1e-3 * torch.eye(len(product), dtype=product.dtype)))
    assert run.optimizer.metrics()["condition_max"].item() == pytest.approx(max(expected).item(), rel=1e-6)
    run = Run("kfac", steps=5, every_factor=1, every_inverse=1, damping=1e-3, method="inverse", split_qkv=False)
    expected = []
    for name in run.rows(0):
        factors = [run.state(name)[key] for key in "AG"]
        damped = [factor + 1e-3 * torch.eye(len(factor), dtype=factor.dtype) for factor in factors]
        expected.append(torch.linalg.cond(torch.kron(*damped), 1))
    assert run.optimizer.metrics()["condition_max"].item() == pytest.approx(max(expected).item(), rel=1e-6)


def test_staggered_inversions_take_turns():
    model = tiny_model()
    optimizer = optimizers.build_optimizer("kfac", model, every_factor=1, every_inverse=4, stagger=True)
    layers = optimizer.activations.layers  # 8
    turns = []
    for step in range(12):
        before = [optimizer.state[layer.weight].get("A_values") for layer in layers]
        optimizer.step(tiny_objective(model).bind(step, tiny_batch(step)))
        after = [optimizer.state[layer.weight].get("A_values") for layer in layers]
        turns.append([i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a is not b])
    for period in (turns[i : i + 4] for i in range(9)):
        assert sorted(i for turn in period for i in turn) == list(range(8))  # each once
    assert max(len(turn) for turn in turns) == 2


@pytest.mark.parametrize("method", ["eigen", "inverse"])
def test_it_goes_on_to_the_same_bits_from_any_step(method):
    """The suite's resume, with refreshes before, at and after it."""
    keywords = {"every_factor": 2, "every_inverse": 3, "method": method, "stagger": True}
    model = tiny_model(bias=True)
    optimizer, objective, saved = optimizers.build_optimizer("kfac", model, **keywords), tiny_objective(model), []
    for step in range(8):
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        saved.append(file)
        train(model, optimizer, objective, 1, start=step)
    for step in (2, 3, 5):
        saved[step].seek(0)
        result = torch.load(saved[step], weights_only=True)
        again = tiny_model(seed=1, bias=True)
        again.load_state_dict(result["model"])
        fresh = optimizers.build_optimizer("kfac", again, **keywords)
        fresh.load_state_dict(result["optimizer"])
        train(again, fresh, tiny_objective(again), 8 - step, start=step)
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("damping", 0.0), ("factor_decay", 1.0), ("kl_clip", 0.0), ("every_factor", 0), ("every_inverse", 0),
     ("method", "cholesky"), ("momentum", 1.0), ("weight_decay", -1.0)],
)  # fmt: skip
def test_impossible_values_name_their_keyword(keyword, value):
    with pytest.raises(ValueError, match=f"^{keyword} must"):
        optimizers.build_optimizer("kfac", tiny_model(), **{keyword: value})
