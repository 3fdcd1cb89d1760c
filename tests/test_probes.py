"""What a plan measures of a device: as much as it must, aloud, and never twice."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.config import parse
from harness.probe import FEWEST, FILE, PASS_FLOPS, PASSES, STEPS, Probes, gradient_speed
from models.base import Losses
from tests.command import composed


@pytest.fixture
def cfg(here):
    return parse(composed("device=cpu", "model=gpt2_pico"))


class Counting(nn.Module):
    """A model of one weight that claims to cost what it is given, and counts the tokens of its passes."""

    def __init__(self, flops: float) -> None:
        super().__init__()
        self.weight, self.flops, self.seen = nn.Parameter(torch.ones(())), flops, []

    def flops_per_token(self, context: int) -> float:
        return self.flops

    def forward(self, inputs, targets):
        self.seen.append(inputs.numel())
        return Losses(self.weight * inputs.numel(), torch.tensor(inputs.numel()), None)


def test_a_gradient_is_measured_in_passes_that_have_a_bound(cfg):
    small, large, huge = (Counting(flops) for flops in (1e3, PASS_FLOPS / 300, PASS_FLOPS))
    for model in (small, large, huge):
        assert gradient_speed(model, cfg, "cpu") > 0
        assert len(model.seen) == 1 + PASSES
    assert set(small.seen) == {min(4096, cfg.batch.tokens)}
    assert set(large.seen) == {300 // cfg.context * cfg.context}
    assert set(huge.seen) == {FEWEST}


def test_a_probe_speaks_once_and_is_kept_for_the_next_plan(cfg, tmp_path, capsys):
    steps = []

    class Slow(torch.optim.SGD):
        def step(self, closure):
            steps.append(1)
            return super().step(closure)

    def plan():
        probes = Probes(tmp_path)
        speed = probes.gradient(lambda: Counting(1e3), cfg)
        return speed, probes.step(lambda model: Slow(model.parameters()), Counting(1e3), cfg), probes.oldest

    first = plan()
    assert [line.partition(" on ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "probing the gradient of gpt2_pico", "probing a step of adamw",
    ]  # fmt: skip
    assert len(steps) == (1 + PASSES) * STEPS
    again = plan()
    assert capsys.readouterr().err == ""
    assert again[:2] == first[:2]
    assert (first[2], again[2]) == (None, json.loads((tmp_path / FILE).read_text()).popitem()[1]["day"])
    plan_of_others = Probes(tmp_path)
    plan_of_others.gradient(lambda: Counting(1e3), replace(cfg, model={**cfg.model, "width": 4}))
    assert "probing" in capsys.readouterr().err
    assert len(json.loads((tmp_path / FILE).read_text())) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"day": 1}}', "\0"])
def test_a_file_of_probes_that_does_not_read_is_begun_anew(cfg, tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert Probes(tmp_path).gradient(lambda: Counting(1e3), cfg) > 0
    assert len(json.loads((tmp_path / FILE).read_text())) == 1
