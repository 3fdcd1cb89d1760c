"""SOAP's other ways to the same step (Cholesky's QR, bfloat16 products), what they charge, and its scratch memory."""

import pytest
import torch
from torch.nn import Parameter
from torch.profiler import ProfilerActivity, profile, record_function

import optimizers
from harness.rehearsal import rehearse
from optimizers.soap import SOAP
from tests.recording import Recording
from tests.test_eigenbasis import drawn
from tests.test_soap import FUSED, bases, feed, naive
from tests.tiny import tiny_model

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: tf32 is not tested")


def test_by_cholesky_it_is_the_same_optimizer():
    run = Recording("soap", **FUSED, qr="cholesky")
    assert run.off(naive(bases(**FUSED), every=10)) < 1e-9


def test_where_choleskys_factor_does_not_exist_reflections_take_over():
    """A row without a gradient gives L a column of zeros; in that refresh both matrices of a side fare as they must."""
    ends, charged = [], []
    for qr in ("householder", "cholesky"):
        sound, hollow = (Parameter(drawn((7, 9), 1, seed=1)[0]) for _ in range(2))
        soap = SOAP([sound, hollow], lr=1e-2, every=3, qr=qr)
        counted: list[int] = []

        class Closure:
            def __call__(self):
                return torch.zeros(())

            def charge(self, flops, counted=counted):
                counted.append(flops)

        for g in drawn((7, 9), 8):
            sound.grad, hollow.grad = g.clone(), g.clone()
            hollow.grad[2] = 0
            soap.step(Closure())
        ends.append((sound.detach(), hollow.detach()))
        charged.append(sum(counted))
        basis = soap.state[hollow]["left_basis"]
        assert torch.allclose(basis.T @ basis, torch.eye(7, dtype=torch.float64), atol=1e-12)
    for ours, theirs in zip(*ends, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9)
    assert charged[1] > charged[0]  # Cholesky's attempt is paid for too


@pytest.mark.parametrize("keywords", [{"qr": "cholesky"}, {"projection_dtype": "bfloat16"}], ids=str)
def test_flops_of_the_other_paths(keywords):
    counted, charged = rehearse(
        lambda model: optimizers.build_optimizer("soap", model, **keywords), tiny_model(width=64), steps=12
    )
    assert charged == pytest.approx(counted, rel=0.02)


def test_what_is_not_rotated_is_not_rounded():
    grads = [g[0].float() for g in drawn((1, 40), 6)]
    ends = []
    for dtype in ("float32", "bfloat16"):
        p = Parameter(torch.zeros(40))
        feed(SOAP([p], lr=1e-2, projection_dtype=dtype), p, grads)
        ends.append(p.detach())
    assert torch.equal(*ends)


def test_bfloat16_projections_turn_the_step_by_little():
    """Products in bfloat16 are off by some .4 %; where V is as small as that error, the step is off by more."""
    start = drawn((96, 32), 1, seed=1)[0].float()
    ends = []
    for dtype in ("float32", "bfloat16"):
        p = Parameter(start.clone())
        soap = SOAP([p], lr=1e-3, projection_dtype=dtype, weight_decay=0.0)
        feed(soap, p, [g.float() for g in drawn((96, 32), 25)])
        ends.append(p.detach() - start)
        assert {value.dtype for value in soap.state[p].values()} == {torch.float32}
    assert 0 < (ends[1] - ends[0]).norm() < 0.03 * ends[0].norm()


@CUDA
def test_tf32_projections_on_cuda():
    start = drawn((96, 32), 1, seed=1)[0].float().cuda()
    ends = []
    for dtype in ("float32", "tf32"):
        p = Parameter(start.clone())
        feed(SOAP([p], lr=1e-3, projection_dtype=dtype), p, [g.float().cuda() for g in drawn((96, 32), 25)])
        ends.append(p.detach() - start)
    assert 0 < (ends[1] - ends[0]).norm() < 0.01 * ends[0].norm()
    assert torch.get_float32_matmul_precision() == "highest"


def test_scratch_is_no_more_than_a_copy_of_the_largest_group_of_layers():
    """That is the 12 layers' (4d, d) weights; in plain steps, in the first and where the bases are refreshed."""
    width, layers = 64, 12
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    params = [Parameter(0.02 * torch.randn(shape)) for _ in range(layers) for shape in shapes]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        soap = SOAP(params, every=2)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            with record_function("the step"):
                soap.step(lambda: torch.zeros(()))
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    steps = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == "the step"]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    assert len(steps) == 3
    for number, (start, end) in enumerate(steps):
        before = sum(n for t, n in changes if t < start)
        live, peak = before, before
        for n in (n for t, n in changes if start <= t <= end):
            live += n
            peak = max(peak, live)
        scratch = peak - max(before, live)  # what stays is state
        allowed = layers * 4 * width * width * 4
        assert 0 < scratch <= (3 if number == 0 else 1) * allowed  # the first basis is made in float64
