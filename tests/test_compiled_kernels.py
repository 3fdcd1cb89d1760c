"""The optimizers' compiled kernels: what they compute is what the rules do, operation by operation; one graph each."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

import optimizers
from optimizers.kernels import add_, average_, average_square_, compile_kernels, descend_, kernels_run
from tests.command import in_process
from tests.recording import START
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
RULES = [
    ("lion", {"lr": 3e-4, "weight_decay": 0.5}),
    ("lion", {"lr": 3e-4, "weight_decay": 0.5, "hyperball": 0.02, "cautious_decay": True, "average": 0.9}),
    ("sophia_g", {"lr": 1e-3, "every": 2}),
    ("sophia_g", {"lr": 1e-3, "every": 2, "preset": "repo"}),
    ("adahessian", {"lr": 1e-2, "every": 2, "block": 8, "weight_decay": 0.1}),
    ("adahessian", {"lr": 1e-2, "block": None}),
    ("scion", {"lr": 2e-3}),
    ("scion", {"lr": 2e-3, "embedding_norm": "column"}),
    ("lamb", {"lr": 5e-3, "max_grad_norm": 0.5}),
]


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was():
    yield
    compile_kernels(None)


def ends(name: str, compiled: bool, keywords: dict, dtype: torch.dtype) -> list[torch.Tensor]:
    """The weights after five updates, whose rate changes from one to the next."""
    model = tiny_model(dtype=dtype)
    optimizer = optimizers.build_optimizer(name, model, **keywords)
    objective = tiny_objective(model)
    compile_kernels(compiled)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 + step)
        optimizer.step(objective.bind(step, tiny_batch(step)))
    return weights(model)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keywords"), RULES)
def test_compiled_and_eager_differ_by_rounding(name, keywords):
    eager, compiled = (ends(name, wanted, keywords, torch.float64) for wanted in (False, True))
    assert distance(compiled, eager, START) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_words_of_the_rules_say_the_same_with_numbers_and_with_tensors(dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for word, numbers in [(average_, [0.1]), (average_square_, [0.1]), (add_, [0.3]), (descend_, [0.3, 0.1])]:
        with_numbers, with_tensors = x.to(dtype), x.to(dtype)
        word(with_numbers, y.to(dtype), *numbers)
        word(with_tensors, y.to(dtype), *(torch.tensor(number, dtype=torch.float64) for number in numbers))
        tolerance = 1e-14 if dtype == torch.float64 else 2e-2
        assert torch.allclose(with_numbers, with_tensors, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_a_rate_that_changes_makes_no_new_graph():
    model = tiny_model(layers=1, width=8, vocabulary=16)
    optimizer = optimizers.build_optimizer("lion", model, lr=1e-3)
    compile_kernels(True)
    runs, graphs = kernels_run(), []
    for step in range(5):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + step)
        optimizer.step()
        graphs.append(counters["stats"]["unique_graphs"])
    assert kernels_run() - runs == 10  # matrices and vectors, five times each
    assert graphs[1:] == graphs[:1] * 4
    # Each step moved the weights by its own rate.
    moved = next(p for p in model.parameters() if p.ndim < 2)
    assert torch.allclose(moved, 1 - 1e-3 * sum(1 / torch.arange(1.0, 6.0)), atol=1e-6)


def test_without_a_compiler_compile_is_refused_in_a_sentence(tmp_path, monkeypatch, corpus):
    monkeypatch.setattr("optimizers.kernels.shutil.which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    ended = in_process("compile=true", "run_dir=out")
    assert ended.code == 2
    assert "compile=true needs a C++ compiler" in ended.err
    assert len(ended.err.strip().splitlines()) == 1
