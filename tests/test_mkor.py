"""MKOR beside its equations, its three formulas beside the inverse that they are meant to be, and MKOR-H's rule."""

import io

import pytest
import torch

import optimizers
from optimizers.backends import BACKENDS
from optimizers.mkor import update_inverse
from tests.oracle import Run, joined, put
from tests.tiny import tiny_batch, tiny_model, tiny_objective, train, weights

EPS = 1e-5  # of Adam: the keys' biases have no gradient but rounding, which a small one would blow up


def identity(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)


class Factor:
    """One factor, kept as it is meant (`exact`: the average itself, inverted anew at each use), or as it is written."""

    def __init__(self, n: int, formula: str, decay: float, stabilizer: tuple[float, float]) -> None:
        self.formula, self.decay, self.stabilizer = formula, decay, stabilizer
        self.average = self.inverse = identity(n)
        self.updates, self.stabilized = 0, 0

    def update(self, x: torch.Tensor) -> None:
        d, (threshold, kept), one = self.decay, self.stabilizer, identity(len(x))
        self.updates += 1
        if self.formula == "repo":
            if self.updates > 1:
                mixed = d * self.inverse + (1 - d) * one
                self.inverse = torch.linalg.inv(torch.linalg.inv(mixed) + torch.outer(x, x))
            return
        if self.inverse.abs().max() > threshold:
            self.stabilized += 1
            self.inverse = kept * self.inverse + (1 - kept) * one
            self.average = torch.linalg.inv(self.inverse)
        if self.formula == "exact":
            self.average = d * self.average + (1 - d) * torch.outer(x, x)
            self.inverse = torch.linalg.inv(self.average)
        else:  # lines 7 and 8 of the paper's algorithm 1
            f = self.inverse
            self.inverse = d * f + (1 - d) / (d**2 * (1 + d * (1 - d) * x @ f @ x)) * (f @ torch.outer(x, x) @ f)


def naive(run: Run, formula: str, backend: str, every: int, decay: float, stabilizer, lr: float, wd: float):
    left, right, m, v = {}, {}, {}, {}
    tokens = tiny_batch()[0].numel()

    def update(step, w, grads):
        directions = dict(grads)
        for name, (a, g) in run.rows(step).items() if step % every == 0 else []:
            g = g * tokens  # of each token's own loss
            if formula == "repo":
                a, g = a.clamp(-100, 100), g.clamp(-100, 100)
            left.setdefault(name, Factor(g.shape[1], formula, decay, stabilizer)).update(g.mean(0))
            right.setdefault(name, Factor(a.shape[1], formula, decay, stabilizer)).update(a.mean(0))
        for name in left:
            dw = joined(grads, name)
            result = left[name].inverse @ dw @ right[name].inverse
            bias = name.replace("weight", "bias")
            put(directions, name, result * dw.norm() / result.norm())
            if formula == "repo" and bias in grads:
                ratio = (grads[name].norm() + grads[bias].norm()) / (result[:, :-1].norm() + result[:, -1].norm())
                put(directions, name, result * ratio)
        out, t = {}, step + 1
        for name, g in directions.items():
            decay_here = wd if w[name].ndim == 2 else 0.0
            if backend == "sgd":
                m[name] = 0.9 * m.get(name, 0.0) + g + decay_here * w[name]
                out[name] = w[name] - lr * m[name]
                continue
            m[name] = 0.9 * m.get(name, 0.0) + 0.1 * g
            v[name] = 0.95 * v.get(name, 0.0) + 0.05 * g**2
            u = m[name] / (1 - 0.9**t) / ((v[name] / (1 - 0.95**t)) ** 0.5 + EPS) + decay_here * w[name]
            trust = w[name].norm() / u.norm() if backend == "lamb" and w[name].ndim == 2 else 1.0
            out[name] = w[name] - lr * trust * u
        return out

    return update, (left, right)


@pytest.mark.parametrize(
    ("formula", "backend", "bias"),
    [("exact", "adamw", True), ("printed", "adamw", False), ("repo", "adamw", True), ("exact", "lamb", False),
     ("repo", "sgd", False)],
)  # fmt: skip
def test_equations(formula, backend, bias):
    lr, wd, decay, stabilizer = (0.05 if backend == "sgd" else 3e-3), 0.1, 0.9, (1.5, 0.8)
    run = Run("mkor", bias, lr=lr, weight_decay=wd, decay=decay, every=3, formula=formula, stabilizer=stabilizer,
              backend=backend, eps=EPS, split_qkv=False)  # fmt: skip
    update, sides = naive(run, formula, backend, 3, decay, stabilizer, lr, wd)
    assert run.off(update) < 1e-9
    for factors, key in zip(sides, ("left", "right"), strict=True):
        for name, factor in factors.items():
            assert (run.state(name)[key] - factor.inverse).norm() < 1e-9 * factor.inverse.norm()
            assert factor.updates == 17
            assert (factor.stabilized > 0) == (formula == "exact")  # the factors of the others stay small here


def apart(formula: str, updates: int = 20, n: int = 32, decay: float = 0.95) -> float:
    """|F - inverse of the average| / |inverse of the average|, both from I, on the same vectors."""
    generator = torch.Generator().manual_seed(0)
    inverse, average = identity(n), identity(n)
    for _ in range(updates):
        x = torch.randn(n, dtype=torch.float64, generator=generator)
        update_inverse(inverse, x, decay, formula)
        average = decay * average + (1 - decay) * torch.outer(x, x)
    truth = torch.linalg.inv(average)
    return ((inverse - truth).norm() / truth.norm()).item()


def test_the_exact_formula_is_the_inverse_of_the_average_and_the_others_are_not():
    assert apart("exact", updates=1) < 1e-9
    assert apart("exact") < 1e-9
    # What the others are off by: after one update, after 20, and after 100 without the stabiliser.
    assert apart("printed", updates=1) == pytest.approx(0.239, abs=1e-3)
    assert apart("printed") == pytest.approx(0.867, abs=1e-3)
    assert apart("printed", updates=100) > 1e6
    assert apart("repo", updates=1) == pytest.approx(0.078, abs=1e-3)
    assert apart("repo") == pytest.approx(0.636, abs=1e-3)


def test_the_printed_sign_enlarges_the_direction_that_should_shrink():
    x = torch.zeros(4, dtype=torch.float64)
    x[0] = 3.0
    result = {}
    for formula in ("exact", "printed", "repo"):
        inverse = identity(4)
        update_inverse(inverse, x, 0.95, formula)
        result[formula] = (inverse[0, 0] / inverse[1, 1]).item()  # along x, against across it
    assert result["exact"] == pytest.approx(0.95 / (0.95 + 0.05 * 9))
    assert result["repo"] == pytest.approx(1 / (1 + 9))
    assert result["printed"] == pytest.approx(1 + 0.05 / (0.95**3 * (1 + 0.95 * 0.05 * 9)) * 9)


def test_the_authors_stabiliser_cannot_come_to_work():
    """Their factors stay between 0 and I, whatever goes in."""
    generator, inverse = torch.Generator().manual_seed(0), identity(8)
    for _ in range(300):
        update_inverse(inverse, 10 * torch.randn(8, dtype=torch.float64, generator=generator) ** 3, 0.95, "repo")
        values = torch.linalg.eigvalsh(inverse)
        assert values.min() > 0
        assert values.max() <= 1 + 1e-12


def test_a_gradient_keeps_its_norm_and_a_gradient_of_zero_stays_zero():
    model = tiny_model(bias=True)
    optimizer = optimizers.build_optimizer("mkor", model, every=1)
    _, directions = optimizer._gradient(tiny_objective(model).bind(0, tiny_batch()))
    layer = optimizer.activations.layers[0]
    size = sum(directions[p].square().sum() for p in (layer.weight, layer.bias)).sqrt()
    assert size.item() == pytest.approx(layer.gradient().norm().item(), rel=1e-5)
    assert not torch.allclose(directions[layer.weight], layer.weight.grad)
    layer.weight.grad.zero_()
    layer.bias.grad.zero_()
    assert not optimizer._precondition(layer).any()


def test_the_condition_of_the_factors_is_logged():
    """The condition is in the 1-norm; a matrix and its inverse have the same."""
    run = Run("mkor", steps=5, every=1, split_qkv=False)
    factors = [run.state(name)[key] for name in run.rows(0) for key in ("left", "right")]
    expected = [(f.abs().sum(0).max() * torch.linalg.inv(f).abs().sum(0).max()).item() for f in factors]
    result = run.optimizer.metrics()
    assert result["condition_max"].item() == pytest.approx(max(expected), rel=1e-9)
    assert min(expected) <= result["condition"].item() < max(expected)


def test_backends_are_torchs_and_our_own():
    generator = torch.Generator().manual_seed(0)
    group = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.1}
    for name, keys in [("adamw", ("betas", "eps")), ("lamb", ("betas", "eps")), ("sgd", ("momentum",))]:
        start = torch.randn(5, 4, dtype=torch.float64, generator=generator)
        ours, theirs, state = start.clone(), torch.nn.Parameter(start.clone()), {}
        keywords = {key: group[key] for key in ("lr", "weight_decay", *keys)}
        if name == "lamb":
            other = optimizers.find("lamb").constructor([theirs], **keywords, max_grad_norm=None)
        else:
            other = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]([theirs], **keywords)
        for _ in range(20):
            theirs.grad = torch.randn(5, 4, dtype=torch.float64, generator=generator)
            BACKENDS[name]([(ours, theirs.grad, state)], group)
            other.step()
        assert torch.allclose(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


class Scripted:
    """An objective whose losses are dictated; its gradients are real."""

    def __init__(self, objective, losses) -> None:
        self.inner, self.losses = objective, losses

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def bind(self, step):
        self.inner.bind(step, tiny_batch(step))
        return self

    def __call__(self):
        self.inner()
        return torch.tensor(self.losses[self.inner.step])


# Averages over windows of 2 updates: rates of 1, 2 (the highest), .3, .1 (slow: below .1 times 2), .5, .1, .1
WINDOWS = [10, 9, 7, 6.7, 6.6, 6.1, 6.0, 5.9, 5.0]
LOSSES = [loss for mean in WINDOWS for loss in (mean + 0.25, mean - 0.25)]


def rule(model, losses=LOSSES, backend="adamw"):
    keywords = {"window": 2, "threshold": 0.1, "patience": 2, "every": 3, "backend": backend}
    return optimizers.build_optimizer("mkor_h", model, lr=1e-3, **keywords), Scripted(tiny_objective(model), losses)


def test_the_rule_leaves_the_second_order_once_it_is_slow_for_long_enough():
    model = tiny_model()
    optimizer, objective = rule(model)
    active = []
    for step in range(len(LOSSES)):
        optimizer.step(objective.bind(step))
        active.append(optimizer.metrics()["second_order"])
    assert active == [1.0] * 15 + [0.0] * 3  # the second slow window in a row ends with step 15
    assert not any({"left", "right"} & state.keys() for state in optimizer.state.values())


@pytest.mark.parametrize("backend", ["adamw", "lamb", "sgd"])
def test_without_the_second_order_it_is_its_backend(backend):
    model = tiny_model()
    optimizer, objective = rule(model, backend=backend)
    optimizer.param_groups[0]["second_order"] = False
    plain = tiny_model()
    for step in range(4):
        optimizer.step(objective.bind(step))
    assert objective.ledger.optimizer == 0
    states, reference = {}, tiny_objective(plain)
    for step in range(4):
        reference.bind(step, tiny_batch(step))()
        with torch.no_grad():
            for p in plain.parameters():
                group = {**optimizer.param_groups[0], "weight_decay": 0.1 if p.ndim >= 2 else 0.0}
                BACKENDS[backend]([(p, p.grad, states.setdefault(p, {}))], group)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(plain), strict=True))


def test_it_goes_on_to_the_same_bits_before_and_after_the_switch():
    model = tiny_model()
    optimizer, objective = rule(model)
    saved = []
    for step in range(len(LOSSES)):
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        saved.append(file)
        optimizer.step(objective.bind(step))
    for start in (7, 15, 17):
        saved[start].seek(0)
        result = torch.load(saved[start], weights_only=True)
        again = tiny_model(seed=1)
        again.load_state_dict(result["model"])
        fresh, objective = rule(again)
        fresh.load_state_dict(result["optimizer"])
        for step in range(start, len(LOSSES)):
            fresh.step(objective.bind(step))
        assert fresh.metrics()["second_order"] == 0
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))


def test_mkor_h_is_mkor_until_then():
    one, other = tiny_model(), tiny_model()
    a = train(one, optimizers.build_optimizer("mkor", one), tiny_objective(one), 12)
    b = train(other, optimizers.build_optimizer("mkor_h", other), tiny_objective(other), 12)
    assert a == b


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("decay", 1.0), ("every", 0), ("formula", "other"), ("stabilizer", (0.5, 0.9)), ("stabilizer", (2.0, 1.1)),
     ("backend", "adam"), ("betas", (0.9, 1.0)), ("eps", -1.0), ("momentum", 1.0), ("window", 0), ("threshold", -0.1),
     ("patience", 0)],
)  # fmt: skip
def test_impossible_values_name_their_keyword(keyword, value):
    with pytest.raises(ValueError, match=f"^{keyword} must"):
        optimizers.build_optimizer("mkor_h", tiny_model(), **{keyword: value})
