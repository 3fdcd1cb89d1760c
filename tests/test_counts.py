"""A target of -100 is not counted: micro-batches of unequal counts are one pass, and what is added is apart.

Of two ranks tests/ranks.py says the same.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conventions.targets import UNCOUNTED
from harness.distributed import Ranks
from harness.evaluate import evaluate
from harness.labels import draw
from models import head
from models.base import Losses
from models.gpt import GPT
from optimizers import build_optimizer
from optimizers.curvature import GaussNewtonBartlett
from tests.command import rows, trained
from tests.tiny import CONTEXT, SEQUENCES, VOCABULARY, masked_batch, tiny_batch, tiny_model, tiny_objective


def mean_loss(model, inputs, targets):
    """Return the mean loss by its definition, from the logits."""
    logits = model(inputs).flatten(0, 1)
    counted = targets.flatten() != UNCOUNTED
    return -logits.log_softmax(-1)[counted].gather(-1, targets.flatten()[counted, None]).mean()


def everything(objective, batch):
    """What each method of the Objective says of a batch."""
    objective.bind(3, batch)
    probe = [
        torch.randn(p.shape, generator=objective.generator(i), dtype=p.dtype) for i, p in enumerate(objective.params)
    ]
    result = {"loss": [objective()], "gradient": [p.grad.clone() for p in objective.params]}
    result["forward"], result["sampled"] = [objective.loss()], objective.sampled_grads()
    result["hvp"], result["curvature"] = objective.hvp(probe), GaussNewtonBartlett()(objective)
    result["narrow"] = objective.narrow(3 / SEQUENCES).sampled_grads()
    result["joint loss"], result["joint hvp"] = [(joint := objective.gradient_and_hvp(probe))[0]], joint[1]
    result["joint gradient"] = [p.grad.clone() for p in objective.params]
    return result


def assert_same(result, expected):
    assert result.keys() == expected.keys()
    for key, tensors in expected.items():
        for a, b in zip(result[key], tensors, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-13), key


@pytest.fixture(scope="module")
def whole():
    """Return what every method says of a batch in one pass."""
    return everything(tiny_objective(tiny_model(dtype=torch.float64), grad_clip=None), masked_batch())


def test_one_pass_is_the_definition(whole):
    model = tiny_model(dtype=torch.float64)
    inputs, targets = masked_batch()
    loss = mean_loss(model, inputs, targets)
    assert whole["loss"][0].item() == pytest.approx(loss.item(), rel=1e-12)
    assert_same({"gradient": whole["gradient"]}, {"gradient": torch.autograd.grad(loss, list(model.parameters()))})
    objective = tiny_objective(model).bind(3, (inputs, targets))
    drawn = draw(model(inputs), objective._uniform(inputs, 0)).masked_fill(targets == UNCOUNTED, UNCOUNTED)
    sampled = torch.autograd.grad(mean_loss(model, inputs, drawn), list(model.parameters()))
    counted = (targets != UNCOUNTED).sum()
    assert counted.item() == objective.num_targets.item() < objective.num_tokens
    expected = {"sampled": sampled, "curvature": [counted * g**2 for g in sampled]}
    assert_same({key: whole[key] for key in expected}, expected)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_of_unequal_counts_are_one_pass(micro, whole):
    model = tiny_model(dtype=torch.float64)
    assert_same(everything(tiny_objective(model, micro=micro, grad_clip=None), masked_batch()), whole)


def test_a_narrowed_part_counts_its_own_targets_and_may_leave_a_rank_without_any():
    model = tiny_model(dtype=torch.float64)
    inputs, targets = masked_batch()
    first = inputs[:1], targets[:1]
    objective = tiny_objective(model).bind(0, (inputs, targets))
    assert objective.num_targets.item() > CONTEXT
    narrow = objective.narrow(1 / SEQUENCES)
    assert narrow.num_targets.item() == CONTEXT
    assert narrow.loss().item() == pytest.approx(mean_loss(model, *first).item(), rel=1e-12)
    ranks = SimpleNamespace(rank=1, world=2, sum_=lambda tensors: None)
    other = tiny_objective(model, ranks=ranks).bind(0, (inputs, targets)).narrow(1 / SEQUENCES)
    assert other.num_targets.item() == 0  # its pass is of no weight; the sum over the ranks is the first one's
    other._counted = narrow.num_targets
    assert other.loss().item() == 0
    assert not any(g.any() for g in [*other.sampled_grads(), *other.hvp([torch.ones_like(p) for p in other.params])])


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_head_counts_and_sums_block_by_block_too(rows):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, generator=generator).double().requires_grad_()
    weight = torch.randn(32, 8, generator=generator).double().requires_grad_()
    targets = torch.randint(32, (16,), generator=generator)
    targets[3:9] = UNCOUNTED
    head.block_rows(rows)
    try:
        total, count, _ = head.head_loss(x, weight, targets)
    finally:
        head.block_rows(0)
    counted = targets != UNCOUNTED
    expected = F.cross_entropy((x @ weight.T)[counted], targets[counted], reduction="sum")
    assert count.item() == 10
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(2 * loss, [x, weight]) for loss in (total, expected))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_an_evaluation_weighs_targets_and_not_batches():
    model = tiny_model(dtype=torch.float64)
    inputs, targets = masked_batch()
    expected = pytest.approx(mean_loss(model, inputs, targets).item(), rel=1e-12)
    for cuts in ([8], [1, 1, 6], [3, 5]):
        batches = list(zip(inputs.split(cuts), targets.split(cuts), strict=True))
        assert evaluate(model, batches, Ranks()).loss == expected
        assert evaluate(model, batches, Ranks(), compiled=model).loss == expected
    with pytest.raises(ValueError, match=r"eval\.tokens: no target of the validation windows counts"):
        evaluate(model, [(inputs[1:2], targets[1:2])], Ranks())


class Zloss(GPT):
    """GPT-2 with a z-loss: the squared logarithm of the softmax's denominator."""

    def forward(self, inputs, targets=None):
        if targets is None:
            return super().forward(inputs)
        losses = super().forward(inputs, targets)
        z = super().forward(inputs).logsumexp(-1)
        return losses._replace(auxiliary=0.01 * (z**2)[targets != UNCOUNTED].sum())


def with_z_loss(dtype=torch.float64) -> GPT:
    model = Zloss(layers=2, heads=2, width=32, context=CONTEXT, vocabulary=VOCABULARY)
    model.load_state_dict(tiny_model().state_dict())
    return model.to(dtype)


@pytest.mark.parametrize("micro", [2, 3, SEQUENCES])
def test_what_is_added_to_the_loss_has_a_gradient_and_a_place_of_its_own(micro, whole):
    model = with_z_loss()
    inputs, targets = masked_batch()
    added = 0.01 * (model(inputs).logsumexp(-1)[targets != UNCOUNTED] ** 2).mean()
    objective = tiny_objective(model, micro=micro, grad_clip=None)
    result = everything(objective, (inputs, targets))
    assert objective.record.loss.item() == pytest.approx(whole["loss"][0].item(), rel=1e-12)
    assert objective.record.auxiliary.item() == pytest.approx(added.item(), rel=1e-12)
    assert result["loss"][0].item() == pytest.approx((whole["loss"][0] + added).item(), rel=1e-12)
    extra = torch.autograd.grad(added, list(model.parameters()))
    expected = {
        **whole,
        **{key: [whole[key][0] + added] for key in ("loss", "forward", "joint loss")},
        **{key: [g + e for g, e in zip(whole[key], extra, strict=True)] for key in ("gradient", "joint gradient")},
    }
    for key in ("hvp", "joint hvp"):  # the Hessian has another term, too
        assert not torch.allclose(result[key][0], whole[key][0])
        del expected[key], result[key]
    assert_same(result, expected)  # sampled gradients are the likelihood's alone
    assert evaluate(model, [(inputs, targets)], Ranks()).loss == pytest.approx(whole["loss"][0].item(), rel=1e-12)


def test_a_run_logs_what_is_added_in_a_column_of_its_own(here, monkeypatch):
    def run(name: str, family: type[GPT]) -> list[dict]:
        monkeypatch.setitem(__import__("models").MODELS, "gpt2", family)
        assert trained(run_dir=name) == "finished"
        return rows(here / name)

    plain, added = run("plain", GPT), run("added", Zloss)
    assert not any("train/auxiliary" in row for row in plain)
    assert all(row["train/auxiliary"] > 0.01 * 4**2 for row in added[:-1])
    for key in ("train/loss", "val/loss"):
        assert added[0][key] == pytest.approx(plain[0][key], rel=1e-6)
    assert added[1]["train/loss"] != plain[1]["train/loss"]  # it has a gradient


def test_a_model_that_returns_a_mean_is_refused():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model()

        def flops_per_token(self, context):
            return 1

        def forward(self, inputs, targets):
            return self.inner(inputs, targets).mean

    objective = tiny_objective(Mean()).bind(0, tiny_batch())
    with pytest.raises(TypeError, match=r"^model: for targets it must return Losses\(sum, count, auxiliary\), not Ten"):
        objective()


@pytest.mark.parametrize("preset", ["paper", "repo"])
def test_sophia_scales_by_the_targets_that_count(preset):
    """A batch, and the same with as much again that does not count: one curvature, one step."""
    inputs, targets = tiny_batch()
    padded = torch.cat([inputs, inputs]), torch.cat([targets, torch.full_like(targets, UNCOUNTED)])
    ends = []
    for batch in [(inputs, targets), padded]:
        model = tiny_model(dtype=torch.float64)
        optimizer = build_optimizer("sophia_g", model, preset=preset, every=1, share=1.0, rho=1e3)
        objective = tiny_objective(model)
        objective.sequences = len(batch[0])
        for step in range(3):
            optimizer.step(objective.bind(step, batch))
        ends.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_loss_of_losses():
    losses = Losses(torch.tensor(6.0), torch.tensor(4))
    assert losses.mean.item() == 1.5
    assert losses.auxiliary is None
    assert math.isnan(Losses(torch.tensor(0.0), torch.tensor(0)).mean.item())
