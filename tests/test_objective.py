"""The one door to the model: what comes through it does not depend on how the batch was cut, and is charged."""

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import labels
from tests.tiny import CONTEXT, SEQUENCES, VOCABULARY, tiny_batch, tiny_model, tiny_objective, train, weights

STOCK = {
    "AdamW": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
    "AdamW fused": (torch.optim.AdamW, {"lr": 1e-3, "fused": True}),
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
    "Adafactor": (torch.optim.Adafactor, {"lr": 1e-2}),
    "NAdam": (torch.optim.NAdam, {"lr": 1e-3}),
    "RAdam": (torch.optim.RAdam, {"lr": 1e-3}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 1e-3}),
    "Adamax": (torch.optim.Adamax, {"lr": 1e-3}),
    "ASGD": (torch.optim.ASGD, {"lr": 1e-2}),
    "Rprop": (torch.optim.Rprop, {"lr": 1e-3}),
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_optimizers_are_bit_identical_to_a_hand_written_loop(name):
    constructor, keywords = STOCK[name]
    ours, theirs = tiny_model(), tiny_model()
    optimizer = constructor(ours.parameters(), **keywords)
    losses = train(ours, optimizer, tiny_objective(ours, micro=2), steps=8)

    optimizer, accumulation = constructor(theirs.parameters(), **keywords), SEQUENCES // 2
    for step in range(8):
        optimizer.zero_grad()
        inputs, targets = tiny_batch(step)
        mean = 0.0
        for i in range(accumulation):
            logits = theirs(inputs[2 * i : 2 * i + 2])
            loss = F.cross_entropy(logits.view(-1, VOCABULARY), targets[2 * i : 2 * i + 2].view(-1)) / accumulation
            loss.backward()
            mean += loss.detach()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        assert losses[step] == mean.item()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_lbfgs_takes_the_objective_as_its_closure_and_pays_for_every_call():
    model = tiny_model()
    objective = tiny_objective(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=4)
    losses = train(model, optimizer, objective, steps=3)
    assert losses[-1] != losses[0]
    assert objective.ledger.model == 3 * model.flops_per_token(CONTEXT) * SEQUENCES * CONTEXT
    assert objective.ledger.curvature >= objective.ledger.model  # the calls after each step's first


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_change_nothing(micro):
    model = tiny_model(dtype=torch.float64)
    whole, cut = tiny_objective(model), tiny_objective(model, micro=micro)
    v = [torch.randn_like(p) for p in model.parameters()]
    for objective in (whole, cut):
        objective.bind(5, tiny_batch())
    assert whole.gradient_and_hvp(v)[0].item() == pytest.approx(cut.gradient_and_hvp(v)[0].item(), rel=1e-12)
    for method, arguments in [("sampled_grads", ()), ("hvp", (v,))]:
        a, b = getattr(whole, method)(*arguments), getattr(cut, method)(*arguments)
        assert max((x - y).abs().max().item() for x, y in zip(a, b, strict=True)) < 1e-12
    assert whole.loss().item() == pytest.approx(cut.loss().item(), rel=1e-12)
    assert whole().item() == pytest.approx(cut().item(), rel=1e-12)
    assert whole.ledger == cut.ledger


def test_hvp_is_the_hessian_times_the_vector():
    model = tiny_model(dtype=torch.float64, layers=1, width=8, heads=1, vocabulary=8)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randint(0, 8, (SEQUENCES, 4), generator=generator) for _ in range(2))
    objective = tiny_objective(model, micro=2).bind(0, (inputs, targets))
    names = [n for n, _ in model.named_parameters()]

    def loss(flat):
        pieces = flat.split([p.numel() for p in model.parameters()])
        values = {n: x.view_as(p) for n, x, p in zip(names, pieces, model.parameters(), strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.functional_call(model, values, (inputs, targets)).mean

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    v = torch.randn(len(flat), dtype=torch.float64)
    pieces = [
        x.view_as(p) for x, p in zip(v.split([p.numel() for p in model.parameters()]), model.parameters(), strict=True)
    ]
    ours = torch.cat([x.flatten() for x in objective.hvp(pieces)])
    assert torch.allclose(ours, hessian @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("micro", [2, SEQUENCES])
def test_a_gradient_and_a_product_in_one_pass_are_those_of_two(micro):
    model = tiny_model(dtype=torch.float64)
    v = [torch.randn_like(p) for p in model.parameters()]
    apart, joined = (tiny_objective(model, micro=micro, grad_clip=0.1).bind(0, tiny_batch()) for _ in range(2))
    loss, grads = apart(), [p.grad.clone() for p in model.parameters()]
    products = apart.hvp(v)
    again, together = joined.gradient_and_hvp(v)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    assert joined.record.norm.item() == pytest.approx(apart.record.norm.item(), rel=1e-12)
    for p, g, one, other in zip(model.parameters(), grads, products, together, strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-9, atol=1e-15)
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-15)


def test_sampled_gradients_are_those_of_the_drawn_labels_and_leave_grad_alone():
    model = tiny_model(dtype=torch.float64)
    objective = tiny_objective(model, micro=4, grad_clip=1e-3).bind(7, tiny_batch())
    sampled = objective.sampled_grads()
    assert all(p.grad is None for p in model.parameters())
    inputs, _ = tiny_batch()
    drawn = labels.draw(model(inputs), objective._uniform(inputs, 0))
    assert not torch.equal(drawn, tiny_batch()[1])
    expected = torch.autograd.grad(model(inputs, drawn).mean, list(model.parameters()))
    assert max((a - b).abs().max().item() for a, b in zip(sampled, expected, strict=True)) < 1e-12


def test_narrow_takes_the_first_sequences_and_shrinks_the_tokens():
    model = tiny_model(dtype=torch.float64)
    objective = tiny_objective(model, grad_clip=None).bind(0, tiny_batch())
    half = objective.narrow(0.5)
    assert half.num_tokens == objective.num_tokens // 2
    inputs, targets = (t[: SEQUENCES // 2] for t in tiny_batch())
    assert half.loss().item() == pytest.approx(model(inputs, targets).mean.item(), rel=1e-12)
    with pytest.raises(ValueError, match="share"):
        objective.narrow(0.0)


def test_generators_depend_on_seed_step_and_key_alone():
    model = tiny_model()
    one, same, other = tiny_objective(model), tiny_objective(model, micro=2), tiny_objective(model, seed=1)
    draw = lambda o, step, key: torch.rand(4, generator=o.bind(step, tiny_batch()).generator(key)).tolist()  # noqa: E731
    assert draw(one, 3, "a") == draw(same, 3, "a")
    assert (
        len({tuple(draw(o, s, k)) for o, s, k in [(one, 3, "a"), (one, 4, "a"), (one, 3, "b"), (other, 3, "a")]}) == 4
    )


def test_clipping_happens_after_the_reduction_and_is_recorded():
    model = tiny_model()
    objective = tiny_objective(model, micro=2, grad_clip=0.1).bind(0, tiny_batch())
    objective()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.1, rel=1e-4)
    assert objective.record.norm.item() > 0.1
    assert objective.record.clipped.item() == 1
    free = tiny_objective(model, micro=2, grad_clip=None).bind(0, tiny_batch())
    free()
    assert free.record.clipped.item() == 0
    assert free.record.norm.item() == pytest.approx(objective.record.norm.item(), rel=1e-6)


def test_methods_enable_grad_themselves_and_return_detached_tensors():
    model = tiny_model()
    objective = tiny_objective(model).bind(0, tiny_batch())
    with torch.no_grad():
        result = [objective(), objective.loss(), *objective.sampled_grads(), *objective.hvp(weights(model))]
    assert not any(t.requires_grad for t in result)


def test_autocast_covers_every_pass():
    model = tiny_model()
    seen = set()
    model.blocks[0].mlp.up.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    objective = tiny_objective(model, dtype=torch.bfloat16).bind(0, tiny_batch())
    for call in (objective, objective.loss, objective.sampled_grads, lambda: objective.hvp(weights(model))):
        seen.clear()
        call()
        assert seen == {torch.bfloat16}
    assert objective.record.loss.dtype == torch.float32


def test_frozen_and_unused_parameters():
    model = tiny_model()
    model.positions.weight.requires_grad_(False)
    model.spare = nn.Parameter(torch.ones(3))
    objective = tiny_objective(model).bind(0, tiny_batch())
    assert len(objective.params) == len(list(model.parameters())) - 1
    objective()
    assert model.positions.weight.grad is None
    assert model.spare.grad is None
    assert len(objective.sampled_grads()) == len(objective.params)
    assert len(objective.hvp([torch.ones_like(p) for p in objective.params])) == len(objective.params)


def test_each_pass_is_charged_for_what_it_ran():
    model = tiny_model()
    objective = tiny_objective(model, micro=2).bind(0, tiny_batch())
    full = model.flops_per_token(CONTEXT) * SEQUENCES * CONTEXT
    ledger = objective.ledger

    def cost(call):
        before = copy.copy(ledger)
        call()
        return (ledger.model - before.model) / full, (ledger.curvature - before.curvature) / full

    assert cost(objective) == (1, 0)
    assert cost(objective) == (0, 1)  # only the step's first call is the model's
    assert cost(objective.sampled_grads) == (0, 1)
    assert cost(objective.narrow(0.5).sampled_grads) == (0, 0.5)
    assert cost(objective.loss) == (0, pytest.approx(1 / 3, rel=1e-3))
    assert cost(lambda: objective.hvp(weights(model))) == (0, pytest.approx(3, rel=0.05))  # counted, not a formula
    objective.bind(0, tiny_batch())
    assert cost(lambda: objective.gradient_and_hvp(weights(model))) == (1, pytest.approx(2, rel=0.05))


def test_a_step_of_an_external_optimizer_draws_the_same_whatever_came_before():
    model = tiny_model()
    objective = tiny_objective(model)
    draws = []
    for _ in range(2):
        objective.bind(3, tiny_batch())
        draws.append((torch.rand(()).item(), random.random(), np.random.rand()))
    assert draws[0] == draws[1]


def test_loss_is_in_nats_and_starts_near_uniform():
    model = tiny_model()
    assert tiny_objective(model).bind(0, tiny_batch())().item() == pytest.approx(math.log(VOCABULARY), rel=0.02)
