"""What another device than the CPU would show, without having one: no step waits for it, and nothing lies elsewhere.

On `meta` tensors have shapes and no data: a product of tensors on unlike devices fails there, and so does every read.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from conventions.keywords import bind
from harness import objective as objectives
from optimizers import build_optimizer, find, list_optimizers
from optimizers.activations import Activations
from optimizers.bases import Bases
from optimizers.mkor_h import MkorH
from scripts.bench.setting import section_of
from tests.cases import quick_cases
from tests.tiny import SEQUENCES, tiny_batch, tiny_model, tiny_objective
from tests.waits import Waits

STEPS = 12  # a refresh at every tenth is among them
TORCHS = {"adafactor"}  # reads a norm of every parameter
FUSED = {"adamw"}  # counts on the device
NAMES = sorted(info.name for info in list_optimizers())
EVERY = quick_cases(NAMES, {"adafactor", "kfac", "muon", "soap", "sophia_g"})  # one of each kind


def trained(name, **more):
    """Return the optimizer, the reads of marked tensors in each step, and the Waits."""
    model = tiny_model()
    keywords = bind(find(name).constructor, section_of("optimizer", name), "optimizer", ["params"])
    optimizer, objective = build_optimizer(name, model, **keywords, **more), tiny_objective(model, micro=SEQUENCES // 2)
    result = []
    with Waits([*model.parameters(), *model.buffers()]) as waits:
        for step in range(STEPS):
            batch = tiny_batch(step)
            for tensor in batch:
                waits.mark(tensor)
            optimizer.step(objective.bind(step, batch))
            result.append(list(waits.reads))
            waits.reads.clear()
    return optimizer, result, waits


def test_a_changed_step_does_not_wait():
    _, result, _ = trained("lion", hyperball=0.02, cautious_decay=True, average=0.9)
    assert result == [[]] * STEPS


@pytest.mark.parametrize("name", EVERY)
def test_steps_do_not_wait_before_a_resume_nor_after_it(name):
    optimizer, result, waits = trained(name)
    reads = {read for step in result for read in step}
    assert reads == ({"_local_scalar_dense"} if name in TORCHS else reads & {"_linalg_eigh"})
    if name == "soap":
        assert [step for step, read in enumerate(result) if read] == [0]  # QR from then on

    # What the host counts by itself must not come back on the device.
    counts = {key for state in optimizer.state.values() for key, value in state.items()
              if isinstance(value, torch.Tensor) and value.ndim == 0 and not waits.marked(value)}  # fmt: skip
    fresh = copy.deepcopy(optimizer)
    for group in fresh.param_groups:
        group["params"] = [torch.nn.Parameter(p.detach().to("meta")) for p in group["params"]]
    fresh.load_state_dict(optimizer.state_dict())
    moved = {key for state in fresh.state.values() for key in counts & state.keys() if state[key].is_meta}
    assert moved == ({"step"} if name in FUSED else set())


def test_a_read_is_found():
    weight = torch.ones(3)
    other = torch.zeros(3)
    with Waits([weight]) as waits:
        (other + 1).sum().item()
        assert waits.reads == []
        twice = (weight * 2).sum()
        twice.item()
        weight[weight > 0]
    assert waits.reads == ["_local_scalar_dense", "index"]


@pytest.fixture
def meta(monkeypatch):
    """Meta has no autocast, no generator and no geqrf; the reads that an optimizer means to do are left out."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(objectives.TimedObjective, "_autocast", lambda _: nullcontext())
    monkeypatch.setattr(objectives, "Generator", lambda _: torch.Generator())
    monkeypatch.setattr(Activations, "_check", lambda *_: None)  # of the first step
    monkeypatch.setattr(Bases, "mend", lambda _: 0)  # of a refresh by Cholesky's factor
    monkeypatch.setattr(MkorH, "_watch", lambda *_: None)  # of a window
    library = torch.library.Library("aten", "IMPL", "Meta")
    library.impl("geqrf", lambda a: (torch.empty_like(a), a.new_empty((*a.shape[:-2], min(a.shape[-2:])))))
    yield
    library._destroy()


WAYS = [
    *((name, {}) for name in NAMES if name not in TORCHS | FUSED),
    *[("soap", {"stagger": True}), ("soap", {"qr": "cholesky"}), ("soap", {"one_sided": True})],
    *[("shampoo", {"stagger": True}), ("shampoo", {"block": 16})],
    *[("kfac", {"method": "inverse"}), ("mkor", {"formula": "printed"}), ("mkor", {"backend": "lamb"})],
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_on_a_device_without_data(name, way, meta):
    model = tiny_model().to("meta")
    keywords = bind(find(name).constructor, {**section_of("optimizer", name), **way}, "optimizer", ["params"])
    optimizer, objective = build_optimizer(name, model, **keywords), tiny_objective(model, micro=SEQUENCES // 2)
    for step in range(STEPS):
        if step == STEPS // 2 + 1:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        inputs, targets = tiny_batch(step)
        optimizer.step(objective.bind(step, (inputs.to("meta"), targets.to("meta"))))
    elsewhere = {key.partition(".")[0] for state in optimizer.state.values() for key, value in state.items()
                 if isinstance(value, Tensor) and not value.is_meta}  # fmt: skip
    assert elsewhere <= {"step"}
