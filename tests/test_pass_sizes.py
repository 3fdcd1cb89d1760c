"""Passes for the curvature that do not fit the memory: smaller ones, found once, off the clock, kept when resumed."""

from types import SimpleNamespace

import pytest
import torch

import train
from harness import pass_sizes
from harness.objective import TimedObjective
from models.gpt import GPT
from tests.command import interrupted, manifest, rows, trained
from tests.test_resume import assert_same_run
from tests.tiny import SEQUENCES, tiny_batch, tiny_model, tiny_objective, weights


def crowded(monkeypatch, fits: int):
    """A device that runs out of memory above `fits` sequences in a pass with gradients."""
    monkeypatch.setattr(pass_sizes, "limited", lambda _: True)
    forward = GPT.forward
    memory = SimpleNamespace(fits=fits)

    def limited_forward(self, tokens, targets=None):
        logits_or_loss = forward(self, tokens, targets)
        if torch.is_grad_enabled() and len(tokens) > memory.fits:
            raise torch.cuda.OutOfMemoryError
        return logits_or_loss

    monkeypatch.setattr(GPT, "forward", limited_forward)
    return memory


def passes(objective):
    """Return a list that grows by (sequences, part of the clock) with every pass from now on."""
    made, marks = [], objective.clock._marks
    objective.model.register_forward_pre_hook(lambda _, args: made.append((len(args[0]), marks[-1][0])))
    return made


METHODS = ["sampled_grads", "hvp", "gradient_and_hvp"]


def call(objective, method: str) -> list[torch.Tensor]:
    v = [torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype) for p in objective.params]
    by_kind = getattr(objective.bind(5, tiny_batch()), method)(*([] if method == "sampled_grads" else [v]))
    if method != "gradient_and_hvp":
        return by_kind
    return [by_kind[0], *by_kind[1], *(p.grad.clone() for p in objective.params), objective.record.norm]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fits", "size"), [(1, 1), (3, 2), (100, 8)])
def test_what_fits_changes_nothing_but_rounding(method, fits, size, monkeypatch):
    plain = tiny_objective(tiny_model(dtype=torch.float64))
    expected = call(plain, method)
    crowded(monkeypatch, fits)
    objective = tiny_objective(tiny_model(dtype=torch.float64))
    for ours, whole in zip(call(objective, method), expected, strict=True):
        assert (ours - whole).norm() <= 1e-12 * whole.norm()
    assert set(objective.sizes.by_kind.values()) == {size}
    assert objective.ledger == plain.ledger
    assert plain.sizes.by_kind == {}  # on a CPU nothing is tried


@pytest.mark.parametrize("method", METHODS)
def test_the_search_is_made_once_and_is_nobodys_time(method, monkeypatch):
    crowded(monkeypatch, fits=2)
    objective = tiny_objective(tiny_model())
    made = passes(objective)
    call(objective, method)
    counted = [size for size, part in made if part == "counting"]
    assert [size for size, part in made if part == "compile"] == [8, 4, 2]
    real = [(size, part) for size, part in made if part not in ("compile", "counting")]
    part = "gradient" if method == "gradient_and_hvp" else "curvature"
    assert real == SEQUENCES // 2 * [(2, part)]
    made.clear()
    call(objective, method)
    assert made == real
    assert set(counted) <= {1}


def test_no_more_sequences_are_tried_than_there_are(monkeypatch):
    crowded(monkeypatch, fits=100)
    objective = tiny_objective(tiny_model())
    made = passes(objective)
    objective.bind(0, tiny_batch()).narrow(3 / SEQUENCES).sampled_grads()
    assert made == [(3, "compile"), (3, "curvature")]
    made.clear()
    objective.sampled_grads()
    assert [size for size, _ in made] == [3, 3, 2]  # what was tried holds for a larger part as well


def test_trials_leave_the_gradient_and_the_peak_of_memory_alone(monkeypatch):
    forgotten = []
    monkeypatch.setattr(pass_sizes, "reset_peak_memory", forgotten.append)
    objective = tiny_objective(tiny_model()).bind(0, tiny_batch())
    objective()
    before = [p.grad.clone() for p in objective.params]
    crowded(monkeypatch, fits=2)
    objective.hvp(weights(objective.model))
    objective.sampled_grads()
    assert all(torch.equal(p.grad, was) for p, was in zip(objective.params, before, strict=True))
    assert forgotten == ["cpu", "cpu"]


def test_trials_leave_room_for_the_state_and_the_gradient(monkeypatch):
    crowded(monkeypatch, fits=2)
    objective = tiny_objective(model := tiny_model())
    objective.sizes.reserve = 1000
    held = sum(each.numel() * each.element_size() for each in objective.sizes.room())
    assert held == 1000 + 4 * sum(p.numel() for p in model.parameters())
    objective.bind(0, tiny_batch()).narrow(0.25)()
    assert [each.numel() for each in objective.sizes.room()] == [1000]


@pytest.mark.slow
def test_a_device_without_room_for_the_state(monkeypatch):
    crowded(monkeypatch, fits=100)
    objective = tiny_objective(tiny_model()).bind(0, tiny_batch())
    made = passes(objective)

    def full():
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(objective.sizes, "room", full)
    with pytest.raises(ValueError, match="do not fit the memory"):
        objective.sampled_grads()
    with pytest.raises(ValueError, match="not even one sequence"):
        pass_sizes.resolve_micro("auto", SEQUENCES, 1, 16, "cuda", objective.attempt)
    assert made == []


@pytest.mark.parametrize(
    ("optimizer", "tensors"),
    [(("optimizer=sophia_g",), 2), (("optimizer=lion",), 1),
     (("optimizer=external", "optimizer._target_=torch.optim.NAdam", "optimizer.lr=1e-3"), 2)],
)  # fmt: skip
def test_a_run_knows_its_state_beforehand(optimizer, tensors, here, monkeypatch):
    built = []
    monkeypatch.setattr(
        train, "TimedObjective", lambda *a, **k: built.append(k["sharding"].state_bytes) or TimedObjective(*a, **k)
    )
    trained(*optimizer, "steps=1", run_dir="run")
    total = manifest(here / "run")["parameters"]["total"]
    assert built == [pytest.approx(tensors * 4 * total, rel=0.01)]


def test_not_even_one_sequence(monkeypatch):
    crowded(monkeypatch, fits=0)
    with pytest.raises(ValueError, match=r"passes for the curvature do not fit the memory of cpu, not even with one"):
        tiny_objective(tiny_model()).bind(0, tiny_batch()).sampled_grads()


def test_a_resumed_run_keeps_its_sizes(here, monkeypatch):
    """Whatever fits by then: another order of adding up would be other bits."""
    arguments = ("optimizer=adahessian", "steps=6", "checkpoint.every=2", "batch.micro=4")
    memory = crowded(monkeypatch, fits=2)
    trained(*arguments, run_dir="whole")
    interrupted(*arguments, run_dir="cut", at=3)
    memory.fits = 1000
    trained(*arguments, run_dir="large")
    trained(*arguments, run_dir="cut", resume=True)
    sizes = {name: manifest(here / name)["resolved"]["curvature_micro"] for name in ("whole", "cut", "large")}
    assert sizes == {"whole": {"hessian": 2}, "cut": {"hessian": 2}, "large": {"hessian": 4}}
    assert_same_run(here / "cut", here / "whole")
    assert rows(here / "large") != rows(here / "whole")  # so it would have shown


@pytest.mark.parametrize(
    ("state", "taken"),
    [({"ranks": 1, "hvp": 2}, {"hvp": 2}), ({"ranks": 2, "hvp": 2}, {}), ({"hvp": 2}, {"hvp": 2})],
    ids=["as many ranks", "other ranks", "an older checkpoint"],
)
def test_sizes_are_taken_from_a_checkpoint_of_as_many_ranks(state, taken):
    sizes = tiny_objective(tiny_model()).sizes
    sizes.restore(state)
    assert sizes.by_kind == taken
    assert sizes.state() == {"ranks": 1, **taken}
