"""The configs that bring in optimizers from PyPI: they compose, train, and go on after a stop to the same bits."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import optimizers
from conventions.keywords import bind
from tests.cases import quick_cases
from tests.command import in_process, manifest, rows
from tests.tiny import goes_on_to_the_same_bits, tiny_batch, tiny_model, tiny_objective, train, weights

CONFIGS = Path(__file__).parent.parent / "configs" / "optimizer"
SECTIONS = {  # a section may refer to the run's length
    path.stem: OmegaConf.to_container(OmegaConf.create({"steps": 40, "its": OmegaConf.load(path)}), resolve=True)["its"]
    for path in CONFIGS.glob("*.yaml")
    if path.stem != "external"
}
EXTERNAL = sorted(name for name, section in SECTIONS.items() if section["name"] == "external")


def build(name, model):
    section = SECTIONS[name]
    info = optimizers.find("external", section["_target_"])
    return info.build(model, **bind(info.constructor, section, "optimizer", ["params"]))


def test_those_that_were_promised_are_there():
    assert {"schedule_free_adamw", "ademamix", "mars", "prodigy"} <= set(EXTERNAL)


@pytest.mark.parametrize("name", quick_cases(EXTERNAL, ["schedule_free_adamw"]))
def test_it_trains_from_the_command_line(name, here):
    ended = in_process(f"optimizer={name}", "steps=40", "log.every=20", "eval.every=20", "run_dir=out")
    assert (ended.code, ended.err) == (0, "")
    assert manifest(here / "out")["status"] == "finished"
    first, *_, last = rows(here / "out")
    assert last["val/loss"] < first["val/loss"] - 0.05  # Prodigy has first to find its rate
    assert last["flops/total"] >= last["flops/model"] > 0


@pytest.mark.parametrize("name", EXTERNAL)
def test_it_goes_on_to_the_same_bits(name):
    goes_on_to_the_same_bits(lambda model: build(name, model))


def test_nadamw_is_adamw_with_nesterovs_momentum():
    """The momentum is that of optax: m^ = b1 m_t / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)."""
    generator, (b1, b2) = torch.Generator().manual_seed(0), SECTIONS["nadamw"]["betas"]
    grads = torch.randn(12, 5, 3, dtype=torch.float64, generator=generator)
    lr, decay = SECTIONS["nadamw"]["lr"], SECTIONS["nadamw"]["weight_decay"]
    layer = torch.nn.Linear(3, 5, bias=False).double()
    optimizer, w = build("nadamw", layer), layer.weight.detach().clone()
    m = v = torch.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        layer.weight.grad = g.clone()
        optimizer.step()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        momentum = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        w = w - lr * decay * w - lr * momentum / ((v / (1 - b2**t)) ** 0.5 + 1e-8)
    assert torch.allclose(layer.weight, w, rtol=1e-10)


def test_schedule_free_is_evaluated_at_its_average():
    model = tiny_model()
    optimizer, objective = build("schedule_free_adamw", model), tiny_objective(model)
    train(model, optimizer, objective, 30)
    during = weights(model)
    with optimizers.eval_weights(optimizer):
        average = weights(model)
        at_average = objective.bind(30, tiny_batch(30)).loss().item()
    assert not any(torch.equal(a, b) for a, b in zip(during, average, strict=True))
    assert at_average != objective.bind(30, tiny_batch(30)).loss().item()


@pytest.mark.parametrize("name", ["SPlus", "ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_evaluating_changes_no_bit_of_what_is_trained(name):
    """SPlus passed every check, and every run of it died: its eval() fails before the first step."""
    ends = []
    for every in (1, 100):
        model = tiny_model()
        optimizer = optimizers.build_optimizer("external", model, _target_=f"pytorch_optimizer.{name}", lr=1e-2)
        for step in range(0, 6, min(every, 6)):
            train(model, optimizer, tiny_objective(model), min(every, 6), start=step)
        ends.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
