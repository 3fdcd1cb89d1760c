"""The least that an optimizer's step takes: its arithmetic, and what is announced beside what eager steps move."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import optimizers
from harness.rehearsal import Rehearsal
from models import build_model
from scripts.bench import floor
from scripts.bench.floor import Work, product_rate, work
from tests.test_optimizers import NAMES, keywords
from tests.tiny import tiny_model

PARAMETERS = 124.4e6  # of GPT-2 small
BANDWIDTH = 3.35e12  # an H100's, bytes/s by the data sheet
RATES = {"bfloat16": 989e12, "tf32": 494.7e12, "float32": 67e12}  # and its dense products'


@pytest.mark.parametrize(
    ("bytes_per_parameter", "flops", "expected"),
    [
        (20, {}, 0.74),  # Lion, SGD
        (24, {}, 0.89),  # Sophia, between its estimates
        (28, {}, 1.04),  # AdamW
        (32, {}, 1.19),  # AdaHessian
        (22.5, {"bfloat16": 1.5e12}, 2.35),  # Muon: AdamW's embedding, 31 % of the parameters
        (28, {"tf32": 2.24e12}, 5.57),  # SOAP
        (28, {"float32": 2.24e12}, 34.5),
        (28, {"tf32": 1.12e12, "float32": 1.12e12}, 20.0),
    ],
)
def test_floors_of_an_h100(bytes_per_parameter, flops, expected):
    row = floor.floor(Work(bytes_per_parameter * PARAMETERS, flops), BANDWIDTH, RATES)
    assert row["floor_ms"] == pytest.approx(expected, rel=0.01)
    assert row["floor_ms"] == pytest.approx(row["floor_of"]["memory_ms"] + row["floor_of"]["products_ms"])


def test_what_announces_nothing_has_no_floor():
    info = optimizers.find("external", "torch.optim.NAdam")
    model = tiny_model()
    assert work(info, info.build(model, lr=1e-3), model) is None
    assert floor.floor(None, BANDWIDTH, RATES)["floor_ms"] is None


@pytest.fixture(scope="module")
def small():
    """GPT-2 small, without memory."""
    with torch.device("meta"):
        return build_model("gpt2", 0, layers=12, heads=12, width=768, context=1024, vocabulary=50304)


@pytest.mark.parametrize(
    ("name", "changed", "bytes_per_parameter", "teraflops"),
    [
        ("adamw", {}, 28, {}),
        ("lion", {}, 20, {}),
        ("sophia_g", {"every": 10}, 24.8, {}),
        ("adahessian", {"every": 1}, 32, {}),
        ("lamb", {}, 28, {}),
        ("muon", {"ns_dtype": "bfloat16"}, 22.5, {"bfloat16": 1.16}),
        ("soap", {"projection_dtype": "bfloat16"}, 28, {"bfloat16": 1.295, "float32": 0.926}),
        ("soap", {}, 28, {"float32": 2.22}),
        ("soap", {"qr": "cholesky"}, 28, {"float32": 2.41}),
        ("mkor", {}, 28, {"float32": 0.588}),
        ("kfac", {}, 20, {"float32": 1.33}),  # what its hooks add to a pass is not the step's
    ],
)
def test_of_gpt2_small(small, name, changed, bytes_per_parameter, teraflops):
    """Beside estimates made before: 1.5 TF for Muon, of which symmetric products in triangles save a fifth, 2.24 TF
    and .23 of QR for SOAP, which saves as much, .59 TF for MKOR."""
    info = optimizers.find(name)
    least = work(info, info.build(small, **{**keywords(name), **changed}), small)
    assert least is not None
    size = sum(p.numel() for p in small.parameters())
    assert least.moved / size == pytest.approx(bytes_per_parameter, rel=0.01)
    assert {key: value / 1e12 for key, value in least.flops.items()} == pytest.approx(teraflops, rel=0.01)


class Traffic(TorchDispatchMode):
    """Bytes of what was there before: read at least once, and written at least once."""

    def __init__(self, gradients: list[Tensor], others: list[Tensor]) -> None:
        super().__init__()
        self.kept = {place(t): t.untyped_storage().nbytes() for t in others}
        self.given = {place(t): t.untyped_storage().nbytes() for t in gradients}  # the fused AdamW could scale them
        self.read: set[int] = set()
        self.written: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for argument, value in zip(func._schema.arguments, args, strict=False):
            into = self.written if argument.alias_info and argument.alias_info.is_write else self.read
            places = {place(t) for t in tree_leaves(value) if isinstance(t, Tensor)}
            into |= places
            # What is changed in place is read too; what is filled or copied over is not.
            if into is self.written and func.overloadpacket not in (torch.ops.aten.copy_, torch.ops.aten.zero_):
                self.read |= places
        return func(*args, **(kwargs or {}))

    @property
    def bytes(self) -> int:
        read = sum(size for key, size in {**self.kept, **self.given}.items() if key in self.read)
        return read + sum(size for key, size in self.kept.items() if key in self.written)


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


HOOKED = ("kfac", "mkor", "mkor_h")
PERIOD = 10


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOOKED])
def test_no_eager_step_moves_less_than_is_announced(name):
    """Each tensor counted once; what only moves weights, gradients, moments and estimates moves just that."""
    info, model = optimizers.find(name), tiny_model(width=32)
    optimizer = info.build(model, **keywords(name))
    params = list(model.parameters())
    gradients, estimates = ([torch.randn_like(p) for p in params] for _ in range(2))

    def gradient(step: int) -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g

    objective = Rehearsal(params, gradient, lambda step: estimates)
    objective.steps(optimizer, PERIOD)
    moved = 0
    for _ in range(PERIOD):
        state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.ndim]
        with Traffic(gradients, [*params, *estimates, *state]) as traffic:
            objective.steps(optimizer, 1)
        moved += traffic.bytes
    least = work(info, optimizer, model)
    assert least is not None
    assert least.moved <= moved / PERIOD * 1.001
    if not least.flops:
        assert moved / PERIOD == pytest.approx(least.moved, rel=0.01)


def test_a_rate_is_measured_once_and_the_switch_is_put_back(monkeypatch):
    asked = []

    def best_products(place, sizes):
        asked.append((place.dtype, torch.get_float32_matmul_precision()))
        return 1e9

    monkeypatch.setattr(floor, "best_products", best_products)
    before = torch.get_float32_matmul_precision()
    product_rate.cache_clear()
    assert [product_rate("cpu", name) for name in ("tf32", "bfloat16", "tf32")] == [1e9] * 3
    product_rate.cache_clear()
    assert asked == [(torch.float32, "high"), (torch.bfloat16, before)]
    assert torch.get_float32_matmul_precision() == before
