"""No optimizer has the host wait for the device in its steps, but for eigh, and for what torch's own Adafactor does."""

import copy

import pytest
import torch

from harness.keywords import bind
from optimizers import build_optimizer, find, list_optimizers
from scripts.bench.contenders import recipe
from tests.tiny import SEQUENCES, tiny_batch, tiny_model, tiny_objective
from tests.waits import Waits

STEPS = 23  # refreshes at every tenth are among them
TORCHS = {"adafactor"}  # reads a norm of every parameter
FUSED = {"adamw"}  # counts on the device
NAMES = sorted(info.name for info in list_optimizers())


def trained(name):
    """(optimizer, per step the reads of marked tensors, the Waits)."""
    model = tiny_model()
    keywords = bind(find(name).constructor, recipe(name), "optimizer", ["params"])
    optimizer, objective = build_optimizer(name, model, **keywords), tiny_objective(model, micro=SEQUENCES // 2)
    found = []
    with Waits([*model.parameters(), *model.buffers()]) as waits:
        for step in range(STEPS):
            batch = tiny_batch(step)
            for tensor in batch:
                waits.mark(tensor)
            optimizer.step(objective.bind(step, batch))
            found.append(list(waits.found))
            waits.found.clear()
    return optimizer, found, waits


@pytest.mark.parametrize("name", NAMES)
def test_steps_do_not_wait_before_a_resume_nor_after_it(name):
    optimizer, found, waits = trained(name)
    reads = {read for step in found for read in step}
    assert reads == ({"_local_scalar_dense"} if name in TORCHS else reads & {"_linalg_eigh"})
    if name == "soap":
        assert [step for step, read in enumerate(found) if read] == [0]  # QR from then on

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
        assert waits.found == []
        twice = (weight * 2).sum()
        twice.item()
        weight[weight > 0]
    assert waits.found == ["_local_scalar_dense", "index"]
