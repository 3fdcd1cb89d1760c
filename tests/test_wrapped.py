"""The changes to an optimizer's step beside their equations in float64, and beside other code."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import optimizers
from optimizers import Wrapped, build_optimizer
from tests.recording import START, Recording, decay
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights

LABELS = [name for name, _ in tiny_model().named_parameters()]
ADAM = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}


def hidden(i: int) -> bool:
    return LABELS[i].startswith("blocks.") and "norm" not in LABELS[i]


def by_matrix(i: int, rule, *tensors: Tensor) -> Tensor:
    """A fused qkv is three matrices."""
    parts = [x.chunk(3 if "qkv" in LABELS[i] else 1) for x in tensors]
    return torch.cat([rule(*each) for each in zip(*parts, strict=True)])


def on_sphere(share: float):
    def rule(w, u):
        moved = w - share * w.norm() * u / u.norm()
        return moved * w.norm() / moved.norm()

    return rule


class Adam:
    """Adam's update over the rate, parameter by parameter."""

    def __init__(self, b1: float, b2: float, eps: float) -> None:
        self.b1, self.b2, self.eps, self.m, self.v = b1, b2, eps, {}, {}

    def __call__(self, i: int, g: Tensor, step: int) -> Tensor:
        self.m[i] = self.b1 * self.m.get(i, 0) + (1 - self.b1) * g
        self.v[i] = self.b2 * self.v.get(i, 0) + (1 - self.b2) * g**2
        t = step + 1
        return (self.m[i] / (1 - self.b1**t)) / ((self.v[i] / (1 - self.b2**t)) ** 0.5 + self.eps)


def test_adamw_on_a_hyperball():
    adam, rule = Adam(*ADAM["betas"], ADAM["eps"]), on_sphere(0.018)

    def update(i, w, g, step):
        u = adam(i, g, step)
        return by_matrix(i, rule, w, u) if hidden(i) else w - ADAM["lr"] * (u + decay(w, 0.1) * w)

    run = Recording("adamw", **ADAM, weight_decay=0.1, hyperball=0.018)
    assert run.off(update) < 1e-9
    for i, (start, end) in enumerate(zip(START, run.end, strict=True)):
        assert not hidden(i) or end.norm().item() == pytest.approx(start.norm().item(), rel=1e-12)


@pytest.mark.parametrize("lr", [0.02, 5.0])
def test_muon_on_a_hyperball(lr):
    """Its own rate decides nothing there: the update counts by its direction."""
    mu, adam, rule, m = 0.95, Adam(0.9, 0.95, 1e-8), on_sphere(0.018), {}

    def orthogonal(x):
        x = x / torch.linalg.matrix_norm(x)
        for _ in range(5):
            x = 3.4445 * x - 4.775 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        return x

    def update(i, w, g, step):
        if not hidden(i):
            return w - 1e-3 * (adam(i, g, step) + decay(w, 0.1) * w)
        m[i] = mu * m.get(i, 0) + (1 - mu) * g
        return by_matrix(i, lambda w, x: rule(w, orthogonal(x)), w, (1 - mu) * g + mu * m[i])

    run = Recording("muon", steps=25, lr=lr, momentum=mu, weight_decay=0.1, adamw_lr=1e-3, hyperball=0.018)
    assert run.off(update) < 1e-9


def test_cautious_decay_of_adamw():
    adam, lr, wd = Adam(*ADAM["betas"], ADAM["eps"]), ADAM["lr"], 5.0

    def update(i, w, g, step):
        u = adam(i, g, step)
        return w - lr * (u + decay(w, wd) * (u * w >= 0) * w)

    run = Recording("adamw", **ADAM, weight_decay=wd, cautious_decay=True)
    assert run.off(update) < 1e-9
    assert run.optimizer.param_groups[0]["weight_decay"] == wd


def test_cautious_decay_of_lion():
    lr, b1, b2, wd, m = 3e-4, 0.95, 0.98, 5.0, {}

    def update(i, w, g, step):
        u = torch.sign(b1 * m.get(i, 0 * g) + (1 - b1) * g)
        m[i] = b2 * m.get(i, 0 * g) + (1 - b2) * g
        return w - lr * u - lr * decay(w, wd) * (u * w >= 0) * w

    assert Recording("lion", lr=lr, betas=(b1, b2), weight_decay=wd, cautious_decay=True).off(update) < 1e-9


def test_where_there_is_no_update_the_weight_decays():
    """As the paper's >= has it: a token that never comes keeps no weight."""
    layer = nn.Linear(2, 2, bias=False)
    start = layer.weight.detach().clone()
    layer.weight.grad = torch.zeros(2, 2)
    Wrapped(torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5), cautious_decay=True).step()
    assert torch.allclose(layer.weight, 0.95 * start)


@pytest.mark.parametrize("name", ["adamw", "soap"])
def test_the_average_is_torchs_to_the_bit(name):
    models = [tiny_model() for _ in range(2)]
    ours, plain = (build_optimizer(name, models[i], average=[0.9, None][i]) for i in range(2))
    theirs = AveragedModel(models[1], multi_avg_fn=get_ema_multi_avg_fn(0.9))
    objectives = [tiny_objective(model) for model in models]
    for step in range(12):
        for optimizer, objective in zip((ours, plain), objectives, strict=True):
            optimizer.step(objective.bind(step, tiny_batch(step)))
        theirs.update_parameters(models[1])
        assert all(map(torch.equal, weights(models[0]), weights(models[1])))  # what is trained is not changed
        with optimizers.eval_weights(ours):
            assert all(map(torch.equal, weights(models[0]), weights(theirs.module)))
    assert all(map(torch.equal, weights(models[0]), weights(models[1])))


def heavyball_on(name: str, model: nn.Module, matrices: bool, **inputs):
    heavyball = pytest.importorskip("heavyball")  # of requirements-external.txt
    heavyball.utils.compile_mode = None
    params = [p for p in model.parameters() if (p.ndim >= 2) == matrices]
    return getattr(heavyball, name)(params, lr=1e-2, betas=(0.0, 0.95), eps=1e-8, **inputs)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("HyperBallAdamW", {"hyperball": 1e-2}), ("AdamW", {"cautious_decay": True})]
)
def test_beside_heavyball(theirs, ours):
    """Without momentum, which theirs has not on a hyperball."""
    models = [nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    wd = 2.0 if theirs == "AdamW" else 0.0
    more = {"cautious_weight_decay": True, "weight_decay": wd} if wd else {}
    other = [heavyball_on(theirs, models[1], True, **more), heavyball_on("AdamW", models[1], False)]
    mine = build_optimizer("adamw", models[0], lr=1e-2, betas=(0.0, 0.95), weight_decay=wd, **ours)
    start, generator = weights(models[0]), torch.Generator().manual_seed(0)
    for _ in range(50):
        x = torch.randn(32, 8, generator=generator)
        for model, steps in zip(models, ([mine], other), strict=True):
            model.zero_grad()
            (model(x) - x[:, :4].sin()).square().mean().backward()
            for each in steps:
                each.step()
    assert distance(weights(models[0]), weights(models[1]), start) < 1e-4
