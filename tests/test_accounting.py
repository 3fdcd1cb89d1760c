"""The clock, the ledger and memory: held against what does not come from our own formulas."""

import itertools

import pytest
import torch

import optimizers
from harness.clock import Clock
from harness.flops import Ledger, count, counter
from harness.recorder import state_bytes
from harness.schedule import build_schedule
from tests.tiny import CONTEXT, SEQUENCES, tiny_batch, tiny_model, tiny_objective


def test_each_second_belongs_to_one_part(busy):
    clock = Clock()
    with clock.running():
        with clock.part("data"):
            busy(0.02)
        with clock.part("gradient"):
            busy(0.04)
            with clock.part("curvature"):
                busy(0.03)
            busy(0.01)
        busy(0.05)
    busy(0.2)  # outside: nobody's
    with clock.paused("evaluate"):
        busy(0.1)
    result = clock.seconds()
    expected = {"data": 0.02, "gradient": 0.05, "curvature": 0.03, "optimizer": 0.05}
    for part, seconds in expected.items():
        assert result[part] == pytest.approx(seconds)
    assert result["total"] == pytest.approx(sum(result[part] for part in expected))
    assert result["evaluate"] == pytest.approx(0.1)
    assert "outside" not in result


def test_the_clock_goes_on_after_an_error_and_from_a_saved_state(busy):
    clock = Clock()
    with pytest.raises(RuntimeError), clock.running(), clock.part("gradient"):
        raise RuntimeError
    busy(0.3)
    assert clock.seconds()["total"] == 0
    clock.restore({"gradient": 100.0, "evaluate": 7.0})
    with clock.running():
        busy(0.02)
    assert clock.seconds()["total"] == pytest.approx(100.02)
    assert clock.state()["evaluate"] == 7.0


def test_compilation_is_off_the_clock_at_any_step(busy):
    """A compiler that takes its time, inside a running step: its seconds are its own."""

    def slow_compiler(graph, example_inputs):
        busy(0.3)
        return graph.forward

    torch._dynamo.reset()
    clock = Clock()
    function = torch.compile(lambda x: x.sin() + 1, backend=slow_compiler, dynamic=False)
    for shape in [3, 5]:  # the second shape compiles again, in the middle of things
        with clock.running(), clock.part("gradient"):
            function(torch.ones(shape))
            function(torch.ones(shape))
    clock.close()
    result = clock.seconds()
    assert result["compile"] == pytest.approx(0.6)
    assert result["total"] == 0


@pytest.mark.parametrize("name", ["adamw", "sophia_g"])
def test_curvature_has_its_own_seconds(name):
    model = tiny_model()
    objective = tiny_objective(model)
    optimizer = optimizers.build_optimizer(name, model, lr=1e-3)
    for step in range(11):
        with objective.clock.running():
            optimizer.step(objective.bind(step, tiny_batch(step)))
    result = objective.clock.seconds()
    assert result["gradient"] > 0
    assert result["optimizer"] > 0
    assert (result["curvature"] > 0) == (name == "sophia_g")


def test_model_flops_are_those_of_torchs_counter():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = tiny_model(width=64, layers=3)
    objective = tiny_objective(model, micro=4).bind(0, tiny_batch())
    with sdpa_kernel(SDPBackend.MATH):
        counted = count(objective)
    assert objective.ledger.model == pytest.approx(counted, rel=0.01)
    assert objective.ledger.at(1)["total"] == objective.ledger.model


def test_the_ledger_keeps_unknown_flops_unknown():
    ledger = Ledger(uncharged_per_step=None)
    ledger.charge("model", 5)
    ledger.charge("optimizer", 3)
    assert ledger.at(4) == {"model": 5, "curvature": 0, "optimizer": None, "total": None}
    known = Ledger(uncharged_per_step=2.5)
    known.charge("model", 5)
    assert known.at(4) == {"model": 5, "curvature": 0, "optimizer": 10, "total": 15}
    again = Ledger(uncharged_per_step=2.5)
    again.restore(known.state())
    assert again.at(4) == known.at(4)


N = 48
A = torch.eye(N) * N + torch.randn(N, N, generator=torch.Generator().manual_seed(0))
SYMMETRIC = A @ A.T
CUBE = N**3
LINEAR_ALGEBRA = {
    "addmm_": (lambda: torch.zeros(N, N).addmm_(A, A), 2 * CUBE),
    "baddbmm_": (lambda: torch.zeros(2, N, N).baddbmm_(A.expand(2, N, N), A.expand(2, N, N)), 4 * CUBE),
    "mv": (lambda: A @ A[0], 2 * N * N),
    "dot": (lambda: A[0] @ A[0], 2 * N),
    "qr": (lambda: torch.linalg.qr(A), 8 / 3 * CUBE),
    "batched qr": (lambda: torch.linalg.qr(A.expand(3, N, N)), 8 * CUBE),
    "tall qr": (lambda: torch.linalg.qr(A[:, :16]), 4 * N * 16 * 16 - 4 / 3 * 16**3),
    "eigh": (lambda: torch.linalg.eigh(SYMMETRIC), 9 * CUBE),
    "cholesky": (lambda: torch.linalg.cholesky(SYMMETRIC), CUBE / 3),
    "inverse": (lambda: torch.linalg.inv(A), 2 * CUBE),
    "triangular solve": (lambda: torch.linalg.solve_triangular(A.triu(), A, upper=True), CUBE),
    "lu": (lambda: torch.linalg.lu_factor(A), 2 / 3 * CUBE),
}


@pytest.mark.parametrize("name", LINEAR_ALGEBRA)
def test_the_counter_knows_the_linear_algebra_that_torchs_own_misses(name):
    """The expected figures are those of the textbooks (Golub & Van Loan); eigh's 9 n^3 is the field's convention."""
    call, expected = LINEAR_ALGEBRA[name]
    with counter() as counted:
        call()
    assert counted.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_state_bytes_are_adamws_two_moments():
    model = tiny_model()
    optimizer = optimizers.build_optimizer("adamw", model, lr=1e-3, fused=True)
    optimizer.step(tiny_objective(model).bind(0, tiny_batch()))
    parameters = sum(p.numel() for p in model.parameters())
    steps = len(list(model.parameters()))
    assert state_bytes(optimizer) == 4 * (2 * parameters + steps)


def test_objective_tokens_and_batch():
    objective = tiny_objective(tiny_model()).bind(0, tiny_batch())
    assert objective.num_tokens == SEQUENCES * CONTEXT


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_schedules(kind):
    factor = build_schedule(100, kind, warmup=10, final=1.0 if kind == "constant" else 0.1)
    curve = [factor(step) for step in range(100)]
    assert curve[0] == pytest.approx(1 / 11)
    assert curve[10] == 1.0
    assert all(a <= b for a, b in itertools.pairwise(curve[:11]))
    assert all(a >= b for a, b in itertools.pairwise(curve[10:]))
    assert curve[-1] == pytest.approx(1.0 if kind == "constant" else 0.1, abs=0.05)
    if kind == "cosine":  # torch's own, from the end of the warm-up on
        p = torch.nn.Parameter(torch.zeros(1))
        sgd = torch.optim.SGD([p], lr=1.0)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=90, eta_min=0.1)
        for step in range(10, 100):
            assert curve[step] == pytest.approx(sgd.param_groups[0]["lr"], abs=1e-9)
            sgd.step()
            theirs.step()
    assert build_schedule(100, kind, warmup=0.1, final=1.0)(0) == factor(0)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("warmup", -1), ("warmup", 100), ("warmup", 1.5), ("final", -0.1), ("final", 2), ("decay", 0)],
)
def test_impossible_schedules_name_the_key(keyword, value):
    with pytest.raises(ValueError, match=f"^{keyword} "):
        build_schedule(100, **{"kind": "wsd", "warmup": 10, "final": 0.1, keyword: value})
