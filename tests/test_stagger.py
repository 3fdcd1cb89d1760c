"""With refreshes staggered no step costs more than twice the mean: 12 layers, in the proportions of GPT-2's blocks."""

from itertools import pairwise

import pytest

import optimizers
from tests.test_soap import per_step_flops
from tests.tiny import tiny_batch, tiny_model, tiny_objective


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("soap", {}),
        pytest.param("soap", {"qr": "cholesky"}, marks=pytest.mark.slow),
        pytest.param("soap", {"one_sided": True}, marks=pytest.mark.slow),
        ("shampoo", {"power": 0.25}),
        pytest.param("shampoo", {"power": 0.5}, marks=pytest.mark.slow),
        pytest.param("shampoo", {"block": 16}, marks=pytest.mark.slow),
    ],
)
def test_no_step_is_slow(name, keywords):
    together, apart = (per_step_flops(name, stagger, layers=12, periods=1, **keywords) for stagger in (False, True))
    assert max(apart) <= 2 * sum(apart) / len(apart)
    assert max(together) > 2 * sum(together) / len(together)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eigen", "inverse"])
def test_no_step_of_kfac_is_slow(method):
    """All of a step: the passes, the statistics every 10 steps, and the inversions spread over 50."""

    def per_step(stagger: bool) -> list[int]:
        model = tiny_model(layers=12)
        kfac = optimizers.build_optimizer("kfac", model, method=method, stagger=stagger)
        objective, totals = tiny_objective(model), []
        for step in range(101):
            kfac.step(objective.bind(step, tiny_batch(step)))
            totals.append(objective.ledger.at(step)["total"])
        return [after - before for before, after in pairwise(totals[50:])]

    together, apart = per_step(False), per_step(True)
    assert max(apart) <= 2 * sum(apart) / len(apart)
    assert max(together) > 2 * sum(together) / len(together)
