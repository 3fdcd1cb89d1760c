"""What every registered optimizer must do; a new one is covered as soon as it is registered and has its YAML."""

import copy
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import optimizers
from conventions.keywords import bind
from harness.command_line import composed
from harness.config import parse
from harness.objective import TimedObjective
from harness.recorder import state_bytes
from harness.rehearsal import rehearse, uncharged_per_step
from optimizers.param_groups import check_cover
from optimizers.plan import check_optimizer
from optimizers.registry import OptimizerInfo
from tests.cases import slow_cases
from tests.command import manifest, rows, trained
from tests.tiny import Unused, goes_on_to_the_same_bits, tiny_batch, tiny_model, tiny_objective, train, weights

NAMES = [info.name for info in optimizers.list_optimizers()]
# Each steps as another one does in most of its code: what is tested of every optimizer is slow of these.
VARIANTS = {"adagrad", "kl_soap", "mkor_h", "normuon", "scion", "sgd", "soap_muon", "sophia_h"}
EVERY = slow_cases(NAMES, VARIANTS)
CONFIGS = Path(__file__).parent.parent / "configs" / "optimizer"
EXTERNAL = [
    ("torch.optim.NAdam", {"lr": 1e-3}),
    ("torch.optim.LBFGS", {"lr": 0.1, "max_iter": 2}),
    ("pytorch_optimizer.Lion", {"lr": 1e-4}),
    ("pytorch_optimizer.ScheduleFreeAdamW", {"lr": 1e-3}),
    ("pytorch_optimizer.SAM", None),
]


def keywords(name: str) -> dict:
    """What configs/optimizer/<name>.yaml gives the constructor."""
    section = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    return bind(optimizers.find(name).constructor, section, "optimizer", ["params"])


def build(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.build_optimizer(name, model, **keywords(name))


@pytest.mark.parametrize("name", EVERY)
def test_loss_falls(name):
    model = tiny_model()
    losses = train(model, build(name, model), tiny_objective(model), steps=60)
    assert sum(losses[-5:]) / 5 < losses[0] - 0.02


@cache
def twelve_updates(name: str):
    model = tiny_model()
    optimizer = build(name, model)
    return model, optimizer, train(model, optimizer, tiny_objective(model), 12)


@pytest.mark.parametrize("name", EVERY)
def test_two_runs_agree_to_the_last_bit(name):
    one, _, losses = twelve_updates(name)
    other, _, same = twelve_updates.__wrapped__(name)
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_all_state_is_in_state_and_param_groups(name):
    """A fresh optimizer given nothing but the state dict, through a file, goes on to the same bits."""
    goes_on_to_the_same_bits(lambda model: build(name, model))


@pytest.mark.parametrize("name", EVERY)
def test_micro_batches_give_the_same_curve(name):
    whole, cut = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64)
    a = train(whole, build(name, whole), tiny_objective(whole), 12)
    b = train(cut, build(name, cut), tiny_objective(cut, micro=2), 12)
    assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_each_parameter_is_in_exactly_one_group(name):
    model = tiny_model()
    optimizer = build(name, model)
    check_cover(model, optimizer.param_groups)
    for group in optimizer.param_groups:
        assert group["initial_lr"] == group["lr"]
        assert group.get("weight_decay", 0) == 0 or all(p.ndim >= 2 for p in group["params"])


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_parameters(name):
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = build(name, model)
    losses = train(model, optimizer, tiny_objective(model), steps=20)
    assert all(loss == loss for loss in losses)
    if isinstance(optimizer, optimizers.Optimizer):  # torch's own classes keep theirs in the parameter's dtype
        kept = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        kept = [v for v in kept if v.is_floating_point()]
        assert kept
        assert all(v.dtype == torch.float32 for v in kept)


@pytest.mark.parametrize("name", EVERY)
def test_frozen_and_unused_parameters_stay_as_they_are(name):
    model = Unused()
    model.positions.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    losses = train(model, build(name, model), tiny_objective(model), steps=12)
    assert all(loss == loss for loss in losses)
    assert torch.equal(model.positions.weight, before.positions.weight)
    assert torch.equal(model.spare.weight, before.spare.weight)
    assert torch.equal(model.idle, before.idle)
    assert not torch.equal(model.embedding.weight, before.embedding.weight)


@pytest.mark.parametrize("name", EVERY)
def test_the_flops_charged_are_those_counted(name):
    """The oracle is torch's counter, taught the linear algebra it misses, and not the optimizer's own formula."""
    info, model = optimizers.find(name), tiny_model(width=64)
    counted, charged = rehearse(lambda twin: build(name, twin), model, steps=20)
    if not info.charges:
        per_step = uncharged_per_step(lambda twin: build(name, twin), model)
        assert per_step == pytest.approx(counted / 20, rel=0.02)
        assert charged == 0
    else:
        assert charged == pytest.approx(counted, rel=0.02, abs=1)


@pytest.mark.parametrize("name", EVERY)
def test_a_learning_rate_of_zero_moves_nothing(name):
    model = tiny_model()
    optimizer = build(name, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(model)
    train(model, optimizer, tiny_objective(model), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_a_gradient_that_is_not_a_number_is_named_and_ends_the_run(name, here, monkeypatch):
    poisoned, build = "blocks.1.mlp.up.weight", OptimizerInfo.build
    now = []  # in the gradient's own pass of the third update, and in no other

    def build_poisoned(info, model, **inputs):
        if poisoned in dict(model.named_parameters()):
            model.get_parameter(poisoned).register_hook(lambda g: g * float("nan") if now else g)
        return build(info, model, **inputs)

    def spoiling(gradient):
        def call(objective, *arguments):
            now.extend([True] * (objective.step == 2))
            result = gradient(objective, *arguments)
            now.clear()
            return result

        return call

    monkeypatch.setattr(OptimizerInfo, "build", build_poisoned)
    for method in ("__call__", "gradient_and_hvp"):
        monkeypatch.setattr(TimedObjective, method, spoiling(getattr(TimedObjective, method)))
    # Found out three updates later, when every weight has been spoilt.
    assert trained(f"optimizer={name}", "log.every=6", "eval.every=6", run_dir="out") == "diverged"
    ended = manifest(here / "out")
    assert ended["status"] == "diverged"
    assert ended["error"].endswith(f"not finite at step 2; the gradient is not finite in {poisoned}")
    assert rows(here / "out")[-1]["step"] == 2


@pytest.mark.parametrize("name", EVERY)
def test_metrics_are_finite_scalars(name):
    _, optimizer, _ = twelve_updates(name)
    for key, value in optimizers.metrics(optimizer).items():
        assert key.isidentifier()
        assert math.isfinite(float(value))
    assert state_bytes(optimizer) > 0  # with the configs' keywords every one of them remembers something


@pytest.mark.parametrize("name", EVERY)
def test_impossible_values_name_their_keyword(name):
    with pytest.raises(ValueError, match=r"(?i)lr|learning rate"):
        optimizers.build_optimizer(name, tiny_model(), **{**keywords(name), "lr": -1.0})


@pytest.mark.parametrize(("target", "inputs"), EXTERNAL)
def test_an_external_class_trains(target, inputs):
    model = tiny_model()
    if inputs is None:  # SAM wraps another optimizer: its constructor wants more than a config can hold
        with pytest.raises((TypeError, ValueError)):
            optimizers.build_optimizer("external", model, _target_=target)
        return
    optimizer = optimizers.build_optimizer("external", model, _target_=target, **inputs)
    losses = train(model, optimizer, tiny_objective(model), steps=40)
    assert losses[-1] < losses[0]
    before = weights(model)
    with optimizers.eval_weights(optimizer):
        assert tiny_objective(model).bind(0, tiny_batch()).loss().item() < losses[0]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, weights(model), strict=True))


def test_an_external_classs_flops_reach_the_metrics(tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    trained("optimizer=external", "optimizer._target_=pytorch_optimizer.Shampoo", "steps=4", run_dir="out")
    last = rows(tmp_path / "out")[-1]
    assert last["flops/optimizer"] > 0
    assert last["flops/total"] == last["flops/model"] + last["flops/optimizer"]


def test_external_classes_are_counted_or_unknown():
    def per_step(target: str) -> float | None:
        return uncharged_per_step(lambda m: optimizers.build_optimizer("external", m, _target_=target), tiny_model())

    assert per_step("torch.optim.NAdam") == 0  # elementwise work is charged to nobody
    assert per_step("pytorch_optimizer.Shampoo") > 0
    assert per_step("pytorch_optimizer.AdaHessian") == 0  # its products are the curvature's


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("os.system", "allow_targets"),
        ("torch.optimum.Adam", "allow_targets"),
        ("torch.optim.Adm", "did you mean Adam"),
        ("torch.optim.lr_scheduler.LambdaLR", "no torch.optim.Optimizer class"),
        ("pytorch_optimizer.nothing.Lion", "no module"),
        ("Lion", "package.module.Class"),
    ],
)
def test_targets_that_are_refused(target, complaint):
    with pytest.raises(ValueError, match=complaint):
        optimizers.build_optimizer("external", tiny_model(), _target_=target)


@pytest.mark.parametrize("keyword", ["gram=triton", "projection_dtype=tf32"])
def test_what_wants_cuda_is_refused_on_a_cpu_alone(keyword):
    cfg = parse(composed(["optimizer=soap", f"optimizer.{keyword}"]))
    with pytest.raises(ValueError, match=r"optimizer\.(gram|projection_dtype) must be .* on no CUDA device"):
        check_optimizer(cfg.optimizer, cfg.allow_targets, "cpu")
    check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")  # for want of a GPU


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="adamw"):
        optimizers.build_optimizer("adam", tiny_model())
