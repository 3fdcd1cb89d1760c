"""Labels drawn from the model's softmax: two ways of inverting one distribution, and one graph of draw and loss."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._inductor.utils import run_and_get_code

from harness import device, labels
from tests.tiny import SEQUENCES, VOCABULARY, tiny_batch, tiny_model, tiny_objective
from tests.waits import Waits

WAYS = [labels.draw, labels.draw_by_blocks]
SIZES = [1, 8, 127, 128, 129, 1000]  # one block, part of one, several


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that the compiler was given."""
    graphs = []
    compile_ = torch.compile

    def compiler(graph, example_inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda model, **keywords: compile_(model, backend=compiler, **keywords))
    yield graphs
    torch._dynamo.reset()


def logits_and_numbers(vocabulary: int, dtype: torch.dtype = torch.float64, rows: int = 50):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (3 * torch.randn(2, rows, vocabulary, generator=generator)).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return logits, torch.rand(2, rows, generator=generator, dtype=torch.float64).to(wide).clamp(max=1 - 2**-24)


@pytest.mark.parametrize("vocabulary", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_both_ways_find_the_same_labels(vocabulary, dtype):
    logits, numbers = logits_and_numbers(vocabulary, dtype)
    assert torch.equal(labels.draw(logits, numbers), labels.draw_by_blocks(logits, numbers))


@pytest.mark.parametrize("vocabulary", SIZES)
def test_a_label_is_where_the_cumulative_distribution_reaches_its_number(vocabulary):
    logits, numbers = logits_and_numbers(vocabulary)
    drawn = labels.draw_by_blocks(logits, numbers)[..., None]
    upto = logits.softmax(-1).cumsum(-1).gather(-1, drawn).squeeze(-1)
    own = logits.softmax(-1).gather(-1, drawn).squeeze(-1)
    assert (upto - own <= numbers + 1e-12).all()
    assert (numbers < upto + 1e-12).all()


@pytest.mark.parametrize("way", WAYS)
def test_their_frequencies_are_the_softmax(way):
    """Chi-square over 600 entries in five blocks, many of them rare, with torch's own stream of numbers."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(600, generator=generator)
    rows, count = 2000, 0
    counts = torch.zeros(600, dtype=torch.float64)
    for _ in range(100):
        numbers = torch.rand(1, rows, generator=generator)
        counts += torch.bincount(way(logits.expand(1, rows, -1), numbers).flatten(), minlength=600)
        count += rows
    expected = count * logits.double().softmax(0)
    enough = expected > 5
    statistic = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    freedom = enough.sum() - 1
    assert enough.sum() > 400
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("way", WAYS)
def test_no_number_draws_what_has_no_probability(way):
    logits = torch.full((1, 3, 300), -torch.inf)
    logits[..., 140:150] = 0.0  # neither the first block nor the last has any
    drawn = way(logits, torch.tensor([[0.0, 0.5, 1 - 2**-24]]))
    assert drawn.tolist() == [[140, 145, 149]]


def test_the_draw_waits_for_no_device():
    logits, numbers = logits_and_numbers(300)
    with Waits([logits, numbers]) as waits:
        labels.draw_by_blocks(logits, numbers)
    assert waits.reads == []
    assert labels.draw_by_blocks(logits.to("meta"), numbers.to("meta")).shape == numbers.shape


def test_logits_that_are_not_numbers_still_give_labels():
    """The loss says what is wrong; an index out of range would take the whole device down."""
    logits = torch.full((1, 2, 300), torch.nan)
    drawn = labels.draw_by_blocks(logits, torch.tensor([[0.0, 0.9]]))
    assert ((drawn >= 0) & (drawn < 300)).all()


def test_numbers_depend_on_seed_step_and_sequence_alone():
    objective = tiny_objective(tiny_model()).bind(3, tiny_batch())
    inputs = tiny_batch()[0]
    whole = objective._uniform(inputs, 0)
    assert whole.shape == inputs.shape
    assert torch.equal(objective._uniform(inputs[:2], 4), whole[4:6])
    assert whole.unique().numel() == whole.numel()
    assert not torch.equal(objective.bind(4, tiny_batch())._uniform(inputs, 0), whole)


def logits_alone(vocabulary: int) -> nn.Module:
    """An external model, which takes no targets."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary))
    model.flops_per_token = lambda context: 1
    return model


def sampled(model: nn.Module, compiled: bool, dtype: torch.dtype = torch.float32, micro: int = SEQUENCES // 2):
    objective = tiny_objective(model, micro=micro, dtype=dtype).bind(7, tiny_batch())
    if compiled:
        objective.forward = device.compiled(model)
    return objective.sampled_grads()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_gradients_are_those_of_the_eager_labels(dtype, graphs):
    model = tiny_model(dtype=dtype)
    for ours, eager in zip(sampled(model, True), sampled(model, False), strict=True):
        assert (ours - eager).norm() <= (1e-5 if dtype == torch.float32 else 1e-12) * eager.norm()
    assert len(graphs) == 1


def test_every_part_of_a_batch_takes_the_one_graph(graphs):
    objective = tiny_objective(model := tiny_model(), micro=2)
    objective.forward = device.compiled(model)
    for step in range(3):
        objective.bind(step, tiny_batch(step)).narrow(0.5).sampled_grads()
    assert len(graphs) == 1


def test_a_model_that_gives_nothing_but_logits(graphs):
    model = logits_alone(VOCABULARY)
    for ours, eager in zip(sampled(model, True), sampled(model, False), strict=True):
        assert (ours - eager).norm() <= 1e-5 * eager.norm()


@pytest.mark.slow
def test_compiled_no_logits_are_kept_in_fp32():
    """Inductor's code has them in the passes' dtype alone, and their gradient in the same place or one more of it."""
    vocabulary = 640
    model = logits_alone(vocabulary)
    objective = tiny_objective(model, dtype=torch.bfloat16).bind(0, tiny_batch())
    objective.forward = device.compiled(model)
    gradients, code = run_and_get_code(objective.sampled_grads)
    torch._dynamo.reset()
    made = re.findall(r"= empty_strided\w*\(\(([\d, ]+)\), .*torch\.(\w+)\)", "\n".join(code))
    assert {dtype for shape, dtype in made if shape.endswith(f", {vocabulary}")} == {"bfloat16"}

    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(tiny_batch()[0])
    drawn = labels.draw(outputs, objective._uniform(tiny_batch()[0], 0))
    loss = F.cross_entropy(outputs.float().flatten(0, 1), drawn.flatten())
    for ours, eager in zip(gradients, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert (ours - eager).norm() <= 0.05 * eager.norm()  # bfloat16: some labels and roundings are others
