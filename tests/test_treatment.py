"""What is announced of every optimizer, parameter by parameter, beside what it then keeps and does."""

import math

import pytest

import optimizers
from harness.recorder import tensor_bytes
from harness.rehearsal import rehearse
from tests.test_optimizers import NAMES, keywords
from tests.test_optimizers import VARIANTS as SLOW
from tests.tiny import tiny_model, tiny_objective, train

MORE = [
    ("soap", {"one_sided": True}),
    ("shampoo", {"graft": False, "max_side": 64}),
    ("shampoo", {"block": 48}),
    ("shampoo", {"split_qkv": True, "max_side": 96}),
    ("soap", {"split_qkv": True, "factorized": True}),
    ("soap", {"block": 48}),
    ("mkor", {"split_qkv": False}),
    ("kfac", {"method": "inverse", "momentum": 0.0}),
    ("kfac", {"backend": "lamb", "every_inverse": 20, "split_qkv": False}),
    ("mkor", {"backend": "sgd"}),
    ("mkor_h", {"backend": "lamb"}),
    ("muon", {"split_qkv": False, "scale": "match_rms"}),
    ("scion", {"split_qkv": False, "embedding_norm": "column"}),
    ("soap_muon", {"one_sided": False, "squares": "momentum", "root": False, "ns_polish": 0}),
    ("psgd_kron", {"block": 48, "memory_save": "smart_one_diag", "every": 3}),
]
# Announced is the mean once refreshes have become rare; a period is short, since three of them are counted.
SHORT = {"psgd_kron": {"flat_start": 0, "anneal": 9.0, "every": 5}, "kfac": {"every_inverse": 20}}
VARIANTS = [
    *(pytest.param(name, {}, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES),
    ("soap", {"factorized": True, "max_side": 64}),
    ("sgd", {"momentum": 0.0}),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE),
]


@pytest.mark.parametrize(("name", "changed"), VARIANTS)
def test_what_is_announced_of_a_parameter_is_what_it_gets(name, changed):
    """Bytes by parameter, beside the state itself; FLOPs in sum, beside what torch's counter sees in a period."""
    info, inputs = optimizers.find(name), {**keywords(name), **SHORT.get(name, {}), **changed}
    model = tiny_model(width=64, bias=True)
    optimizer = info.build(model, **inputs)
    announced = info.treatments(optimizer, model, tokens=1)
    assert announced is not None
    assert all(result.rule for result in announced.values())
    train(model, optimizer, tiny_objective(model), steps=12)
    for parameter, p in model.named_parameters():
        assert tensor_bytes(optimizer.state.get(p, {})) == announced[parameter].state_bytes, parameter

    def build(model):
        return info.build(model, **inputs)

    period = math.lcm(*(value for key, value in inputs.items() if key.startswith("every")))
    counted = rehearse(build, model, 2 * period)[0] - rehearse(build, model, period)[0]
    assert sum(result.flops for result in announced.values()) == pytest.approx(counted / period, rel=0.02, abs=0.1)
