"""Hooks on linear layers: what they see, what they must not see, and that cutting the batch changes nothing."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import optimizers
from harness.distributed import Pending, Ranks
from harness.flops import count
from models.base import Losses
from optimizers.activations import Activations, Sum
from tests.oracle import layer_rows
from tests.tiny import CONTEXT, SEQUENCES, tiny_batch, tiny_model, tiny_objective, train, weights

HOOKED = ["kfac", "mkor", "mkor_h"]
EVERY = {"kfac": {"every_factor": 3, "every_inverse": 3, "lr": 0.02}, "mkor": {"every": 3}, "mkor_h": {"every": 3}}


def build(name, model, **keywords):
    return optimizers.build_optimizer(name, model, **{**EVERY[name], **keywords})


def moments(activations, objective):
    activations.record(objective, True)
    return {layer.name: (a, *g) for layer, a, g in activations.means(objective)}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("moment", [1, 2])
def test_means_are_those_of_the_rows(moment, bias):
    model, twin = (tiny_model(dtype=torch.float64, bias=bias) for _ in range(2))
    result = moments(Activations(model, moment), tiny_objective(model, micro=2, grad_clip=1e-3).bind(0, tiny_batch()))
    expected = layer_rows(twin, lambda: twin(*tiny_batch()).mean)
    assert {f"{name}.weight" for name in result} == expected.keys()
    for name, means in result.items():
        for ours, rows in zip(means, expected[f"{name}.weight"], strict=True):
            theirs = rows.mean(0) if moment == 1 else rows.T @ rows / len(rows)
            assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_bounds_clamp_every_entry():
    model, twin = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64)
    activations, objective = Activations(model, 1), tiny_objective(model).bind(0, tiny_batch())
    activations.record(objective, True, (0.5, 1e-4))
    expected = layer_rows(twin, lambda: twin(*tiny_batch()).mean)
    for layer, a, g in activations.means(objective):
        inputs, gradients = expected[f"{layer.name}.weight"]
        assert torch.allclose(a, inputs.clamp(-0.5, 0.5).mean(0), rtol=1e-12, atol=1e-15)
        assert torch.allclose(g[0], gradients.clamp(-1e-4, 1e-4).mean(0), rtol=1e-12, atol=1e-15)


class TwoRanks(Ranks):
    """Two ranks in two threads of this process."""

    meeting, sums = threading.Barrier(2), {}

    def sum_(self, tensors):
        for tensor in tensors:
            self.sums[self.rank] = tensor.clone()
            self.meeting.wait(timeout=30)
            tensor.copy_(self.sums[0] + self.sums[1])
            self.meeting.wait(timeout=30)

    def start_sum(self, tensors):
        self.sum_(tensors)
        return Pending(tensors, None, None)


@pytest.mark.parametrize("name", HOOKED)
def test_micro_batches_and_ranks_change_nothing(name):
    def run(rank: int, world: int, micro: int) -> None:
        model = models[rank, world, micro] = tiny_model(dtype=torch.float64, bias=True)
        optimizer = build(name, model)
        objective = tiny_objective(model, micro, ranks=TwoRanks(rank, 2) if world == 2 else Ranks())
        for step in range(8):
            inputs, targets = tiny_batch(step)
            optimizer.step(objective.bind(step, (inputs[rank::world], targets[rank::world])))
        conditions[rank, world, micro] = optimizer.metrics()["condition_max"].item()

    models, conditions = {}, {}
    run(0, 1, SEQUENCES)
    run(0, 1, 2)
    threads = [threading.Thread(target=run, args=(rank, 2, 2)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4
    whole = weights(models.pop((0, 1, SEQUENCES)))
    for model in models.values():
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(whole, weights(model), strict=True))
    assert max(conditions.values()) == pytest.approx(min(conditions.values()), rel=1e-9)
    assert max(conditions.values()) > 1.01


@pytest.mark.parametrize("name", HOOKED)
def test_nothing_is_recorded_but_the_training_pass_of_a_due_step(name, monkeypatch):
    added = []
    add = Sum.add
    monkeypatch.setattr(Sum, "add", lambda self, x, bound: (added.append(x.shape), add(self, x, bound))[1])
    model = tiny_model()
    optimizer, objective = build(name, model), tiny_objective(model, micro=4)
    for step in range(7):
        added.clear()
        optimizer.step(objective.bind(step, tiny_batch(step)))
        # Of 2 micro-batches the inputs of 8 layers and the gradients of 12 matrices.
        assert len(added) == (2 * (8 + 12) if step % 3 == 0 else 0)
        added.clear()
        objective.loss()
        objective.sampled_grads()
        objective.hvp([torch.ones_like(p) for p in objective.params])
        with torch.no_grad():
            model(*tiny_batch())
        model(*tiny_batch()).mean.backward()
        assert added == []
    assert all(layer.inputs is None and not layer.gradients for layer in optimizer.activations.layers)


@pytest.mark.parametrize("name", HOOKED)
def test_the_flops_charged_grow_with_the_tokens_as_counted(name):
    """The suite has one token a pass; here are a batch of them."""
    model = tiny_model(layers=1, width=128)
    objective = tiny_objective(model, micro=4)
    optimizer = build(name, model)
    plain = tiny_objective(tiny_model(layers=1, width=128), micro=4).bind(0, tiny_batch())
    counted = sum(count(lambda s=s: optimizer.step(objective.bind(s, tiny_batch(s)))) - count(plain) for s in range(6))
    assert objective.ledger.optimizer == pytest.approx(counted, rel=0.02)


def test_autocast_sums_in_float32():
    exact, cast = tiny_model(), tiny_model()
    one = moments(Activations(exact, 2), tiny_objective(exact).bind(0, tiny_batch()))
    other = moments(Activations(cast, 2), tiny_objective(cast, dtype=torch.bfloat16).bind(0, tiny_batch()))
    for name, means in one.items():
        for a, b in zip(means, other[name], strict=True):
            assert b.dtype == torch.float32
            assert (a - b).norm() < 0.02 * a.norm()
    a, b = one["blocks.1.mlp.down"][0], other["blocks.1.mlp.down"][0]
    assert not torch.allclose(a, b, rtol=1e-4)  # its inputs have been through bfloat16
    a, b = one["blocks.0.attention.qkv"][0], other["blocks.0.attention.qkv"][0]
    assert torch.equal(a, b)  # and these have not, nor has their sum


def summed(logits, targets):
    return Losses(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), targets.new_tensor(1))


class Toy(nn.Module):
    """Linear layers in all their ways: shared weights, biases shared or not, frozen ones, one tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(64, 8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight, self.two.bias = self.one.weight, self.one.bias
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right.weight = self.left.weight
        self.frozen, self.still = nn.Linear(8, 8), nn.Linear(8, 8)
        self.frozen.weight.requires_grad_(False)
        self.still.bias.requires_grad_(False)
        self.head = nn.Linear(8, 64, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, targets=None):
        x = self.embedding(tokens)
        for layer in (self.one, self.left, self.frozen, self.two, self.right, self.still):
            x = x + layer(x).tanh()
        logits = self.head(x)
        return logits if targets is None else summed(logits, targets)

    def flops_per_token(self, context):
        return 1


def test_shared_weights_are_one_layer_and_frozen_ones_and_the_head_none():
    model = Toy().double()
    activations = Activations(model, 2)
    joined = [(layer.name, layer.bias is not None) for layer in activations.layers]
    assert joined == [("one", True), ("left", False), ("still", False)]
    inputs = []
    for module in (model.one, model.two):
        module.register_forward_hook(lambda module, args, output: inputs.append(args[0].detach()))
    result = moments(activations, tiny_objective(model).bind(0, tiny_batch()))
    rows = torch.cat([x.flatten(0, 1) for x in inputs])
    assert len(rows) == 2 * SEQUENCES * CONTEXT
    assert torch.allclose(result["one"][0][:8, :8], rows.T @ rows / len(rows), rtol=1e-12)
    assert torch.allclose(result["one"][0][:8, 8], rows.mean(0), rtol=1e-12)


@pytest.mark.parametrize("name", HOOKED)
def test_layers_in_all_their_ways_train(name):
    model = Toy()
    before = {key: p.clone() for key, p in model.named_parameters()}
    losses = train(model, build(name, model, lr=0.01), tiny_objective(model), steps=12)
    assert losses[-1] < losses[0]
    still = {"frozen.weight", "still.bias"}
    assert {key for key, p in model.named_parameters() if torch.equal(p, before[key])} == still


def test_a_layer_whose_module_is_never_called_is_named():
    class Unhooked(Toy):
        def forward(self, tokens, targets=None):
            x = self.one(self.embedding(tokens)) + self.embedding(tokens) @ self.still.weight
            return summed(self.head(x), targets)

    model = Unhooked()
    with pytest.raises(ValueError, match="layer still recorded nothing in step 0"):
        build("kfac", model).step(tiny_objective(model).bind(0, tiny_batch()))


@pytest.mark.parametrize("name", HOOKED)
def test_a_model_with_nothing_to_precondition_is_refused(name):
    with pytest.raises(ValueError, match="nothing to precondition"):
        build(name, nn.Embedding(4, 4))


@pytest.mark.parametrize("moment", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compiled_passes_record_the_same(moment):
    """Two graphs, one with the sums and one without, and no break in either."""
    model, compiled = (tiny_model(layers=1, dtype=torch.float64) for _ in range(2))
    one, other = Activations(model, moment), Activations(compiled, moment)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, objective = tiny_objective(model, micro=4), tiny_objective(compiled, micro=4)
    objective.forward = torch.compile(compiled, backend="aot_eager")
    for step in range(2):
        objective.bind(step, tiny_batch(step))()  # without
        expected = moments(one, plain.bind(step, tiny_batch(step)))
        result = moments(other, objective.bind(step, tiny_batch(step)))
        for name, means in expected.items():
            assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(means, result[name], strict=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]


@torch._dynamo.config.patch(skip_nnmodule_hook_guards=True)  # torch's default; harness.device.compiled has it look
def test_hooks_that_come_after_the_compiler_are_told_so():
    model = tiny_model(layers=1)
    objective = tiny_objective(model)
    torch._dynamo.reset()
    objective.forward = torch.compile(model, backend="eager")
    objective.bind(0, tiny_batch())()
    with pytest.raises(ValueError, match="build the optimizer before torch"):
        build("mkor", model).step(objective.bind(0, tiny_batch()))


@pytest.mark.parametrize("name", HOOKED)
def test_a_skipped_layer_has_no_factors_and_gives_the_backend_its_gradient(name):
    model = tiny_model(bias=True)
    keywords = {"backend": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1}
    optimizer = build(name, model, skip_layers=("up", "blocks.0.attention.projection"), **keywords)
    layers = {layer.name for layer in optimizer.activations.layers}
    assert layers == {"blocks.0.attention.qkv", "blocks.0.mlp.down"} | {
        f"blocks.1.{part}" for part in ("attention.qkv", "attention.projection", "mlp.down")
    }
    plain = {}
    for step in range(2):
        before = dict(zip(model.parameters(), weights(model), strict=True))
        optimizer.step(tiny_objective(model).bind(step, tiny_batch(step)))
        plain |= {n: torch.allclose(p, before[p] - 0.1 * p.grad, atol=1e-7) for n, p in model.named_parameters()}
    assert plain["blocks.0.mlp.up.weight"]
    assert plain["blocks.1.mlp.up.bias"]
    assert plain["blocks.0.attention.projection.weight"]
    assert not plain["blocks.1.attention.projection.weight"]
    assert not any(
        key.startswith(("A", "G", "left", "right")) for key in optimizer.state[model.blocks[0].mlp.up.weight]
    )


@pytest.mark.parametrize(
    ("skip", "sentence"),
    [
        (("pooler",), "skip_layers: no hidden linear layer is called 'pooler'; there are qkv, projection, up, down"),
        (
            ("qkv", "projection", "up", "down"),
            "no trainable linear layer but its head and qkv, projection, up, down of",
        ),
    ],
)
def test_layers_that_are_not_there_cannot_be_skipped_and_not_all_of_them(skip, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("kfac", tiny_model(), skip_layers=skip)
