"""The stand-in Objective: an optimizer's steps without a pass, counted without harm to the compiler."""

import pytest
import torch
from torch import nn

from harness.flops import count
from harness.rehearsal import Rehearsal, rehearse, uncharged_per_step
from tests.test_optimizers import build
from tests.tiny import tiny_model


class ScheduleFree(torch.optim.SGD):
    """It refuses to step until its `train` was called, as schedulefree's classes do."""

    training = False

    def train(self):
        self.training = True

    def step(self, closure=None):
        assert self.training, "call train() first"
        p = self.param_groups[0]["params"][0]
        p @ p.T
        return super().step(closure)


def test_a_schedule_free_class_is_counted():
    model = nn.Linear(4, 4)
    assert uncharged_per_step(lambda twin: ScheduleFree(twin.parameters(), lr=0.1), model) == 2 * 4**3


@pytest.fixture
def graphs():
    """The graphs that the compiler `compiler` was given."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def test_counting_leaves_the_compiler_able(graphs):
    def compiler(graph, example_inputs):
        graphs.append(graph)
        return graph

    function = torch.compile(lambda x: (x @ x).sin(), backend=compiler)
    x = torch.eye(8)
    assert count(lambda: function(x)) == 2 * 8**3  # what is compiled is counted too
    assert graphs == []
    function(x)
    assert len(graphs) == 1
    with pytest.raises(ZeroDivisionError):
        count(lambda: 1 / 0)
    assert torch.equal(function(torch.ones(8, 8)), torch.full((8, 8), 8.0).sin())
    assert count(lambda: function(x)) == 2 * 8**3  # compiled before
    assert len(graphs) == 1


def test_answers_at_hand_and_what_was_asked_for():
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    made = []
    rehearsal = Rehearsal(params, made.append, lambda step: [torch.full_like(p, step) for p in params], num_tokens=7)
    rehearsal.step = 3
    assert rehearsal().item() == 1
    assert made == [3]
    assert [g.tolist() for g in rehearsal.narrow(0.5).sampled_grads()] == [[3, 3], [3, 3, 3]]
    assert [g.tolist() for g in rehearsal.gradient_and_hvp([])[1]] == [[3, 3], [3, 3, 3]]
    assert rehearsal.passes == {"gradient": 2, "sampled_grads": 0.5, "hvp": 0, "joint_hvp": 1}
    rehearsal.narrow(0.5).charge(5)
    assert rehearsal.charges == {3: 5}
    assert rehearsal.num_tokens == 7


def test_steps_go_on_where_the_last_ones_ended():
    seen = []
    model = nn.Linear(3, 3)
    rehearsal = Rehearsal.on(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append(rehearsal.step))
    rehearsal.steps(optimizer, 2)
    rehearsal.steps(optimizer, 3)
    assert seen == [0, 1, 2, 3, 4]


def test_hooks_get_a_pass_to_see_and_only_their_own_work_is_counted():
    model = tiny_model(width=64)
    counted, charged = rehearse(lambda twin: build("mkor", twin), model, 20)
    assert counted == pytest.approx(charged, rel=0.02)
    assert all(p.grad is None for p in model.parameters())  # a copy did it
