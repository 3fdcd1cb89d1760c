"""The compiled model: evaluation takes the training graph, and runs of one process share what is alike alone."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from harness import device
from harness.distributed import Ranks
from harness.evaluate import evaluate
from optimizers import build_optimizer
from tests.tiny import tiny_batch, tiny_model, tiny_objective


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that the compiler was given."""
    result: list[torch.fx.GraphModule] = []
    compile_ = torch.compile

    def compiler(graph, example_inputs):
        result.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda model, **keywords: compile_(model, backend=compiler, **keywords))
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True, recompile_limit=8):
        yield result
    torch._dynamo.reset()


def test_evaluation_takes_the_training_graph_and_a_short_last_batch_too(graphs):
    model = tiny_model()
    forward, (inputs, targets) = device.compiled(model), tiny_batch()
    forward(inputs[:2], targets[:2]).mean.backward()
    before = [p.grad.clone() for p in model.parameters()]
    batches = [(inputs[:2], targets[:2]), (inputs[2:3], targets[2:3])]
    loss = evaluate(model, batches, Ranks(), compiled=forward).loss
    assert len(graphs) == 1
    assert loss == pytest.approx(model(inputs[:3], targets[:3]).mean.item(), rel=1e-6)
    assert loss == pytest.approx(evaluate(model, batches, Ranks()).loss, rel=1e-6)
    assert all(torch.equal(p.grad, was) for p, was in zip(model.parameters(), before, strict=True))


def test_the_trial_that_finds_the_micro_batch_compiles_what_trains(graphs):
    objective = tiny_objective(model := tiny_model(), micro=4)
    objective.forward = device.compiled(model)
    objective.attempt(4, 16)
    objective.bind(0, tiny_batch())()
    objective.bind(1, tiny_batch(1))()
    assert len(graphs) == 1


def test_a_run_without_hooks_shares_its_graph_with_none_that_has_some(graphs):
    """By default the compiler does not look at hooks, and K-FAC would record nothing."""
    for name, made in [("adamw", 1), ("adamw", 1), ("kfac", 3), ("kfac", 3), ("adamw", 3)]:  # K-FAC: two
        model = tiny_model()
        optimizer = build_optimizer(name, model)
        objective = tiny_objective(model)
        objective.forward = device.compiled(model)
        for step in range(2):
            optimizer.step(objective.bind(step, tiny_batch(step)))
        assert len(graphs) == made


class Pool:
    """What torch keeps of its compile workers."""

    running = True

    def __init__(self):
        worker = "import subprocess; p = subprocess.Popen(['sleep', '3600']); print(p.pid, flush=True); p.wait()"
        self.process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True)
        self.worker = int(self.process.stdout.readline())


def test_compile_workers_are_ended_and_not_waited_for():
    pool = Pool()
    device._end_workers([pool, object()])  # the second: a pool that ends by itself
    assert pool.process.returncode == -signal.SIGKILL
    assert not pool.running
    while alive(pool.worker):  # it dies of a signal that it has been sent: only a bug makes this wait
        time.sleep(0.01)


def alive(process):
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
