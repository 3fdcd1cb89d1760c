"""The luck of the lowest of n trials, on made-up studies whose true speed-up is 1.3."""

import numpy as np
import pytest

from judge.declared import Declared, Sigma
from judge.public.cell import Cell
from judge.public.lowest import least, lucky_figures, raised
from judge.scale import figures

SIGMA, TRUE, PARAMETERS = 0.0025, 1.3, 1.3e8
EQUAL, APART = 0.0, 0.02  # nats between one trial's true loss and the next one's: eight sigma is far apart


def law(tokens):
    return 2 + 410 * tokens**-0.28


def study(rng, trials, apart):
    """Return the cells of a sweep: of each cell the lowest of its trials. trials, apart: of both arms, by name."""
    cells = []
    for budget in (1, 2, 4, 8):
        tokens = int(20 * PARAMETERS * budget)
        for arm, gain in (("AdamW", 1.0), ("soap", TRUE)):
            true = law(gain * tokens) + apart[arm] * np.arange(trials[arm])
            lowest = float((true + SIGMA * rng.standard_normal(trials[arm])).min())
            cells.append(Cell(arm, "130m", PARAMETERS, tokens, (lowest,), str(budget), None, lowest, trials[arm]))
    return cells


@pytest.mark.parametrize(("trials", "known"), [(1, 0.0), (2, -0.56419), (3, -0.84628), (10, -1.53875), (20, -1.86748)])
def test_the_mean_of_the_least_of_normal_numbers(trials, known):
    assert least(trials) == pytest.approx(known, abs=1e-5)


@pytest.mark.parametrize("apart", [EQUAL, 0.001, 0.003, APART])
def test_the_luck_lies_between_none_and_that_of_equal_trials(apart):
    """A fresh run shows the raised loss where all trials are equal, and the lowest itself where one is far better."""
    rng = np.random.default_rng(1)
    true = 3 + apart * np.arange(20)
    losses = true + SIGMA * rng.standard_normal((4000, 20))
    lowest, fresh = losses.min(1).mean(), true[losses.argmin(1)].mean()
    cell = Cell("soap", "130m", PARAMETERS, 1, (), lowest=float(lowest), trials=20)
    none, most = (raised(cell, SIGMA, share).losses[0] for share in (0, 1))
    chance = 3 * SIGMA / np.sqrt(4000)
    assert none - chance < fresh < most + chance
    assert fresh == pytest.approx(most if apart == EQUAL else fresh, abs=chance)
    assert fresh == pytest.approx(none if apart == APART else fresh, abs=chance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "apart"),
    [
        ({"AdamW": 20, "soap": 20}, {"AdamW": EQUAL, "soap": EQUAL}),
        ({"AdamW": 20, "soap": 20}, {"AdamW": APART, "soap": EQUAL}),
        ({"AdamW": 20, "soap": 20}, {"AdamW": EQUAL, "soap": APART}),
        ({"AdamW": 4, "soap": 33}, {"AdamW": 0.003, "soap": 0.001}),
        ({"AdamW": 1, "soap": 20}, {"AdamW": EQUAL, "soap": EQUAL}),
    ],
)
def test_the_interval_holds_the_truth_whatever_the_trials_are(trials, apart):
    """Of 200 cells; without the correction a quarter misses it where one arm has luck and the other has none."""
    rng = np.random.default_rng(2)
    declared = Declared(Sigma(SIGMA, "these trials"))
    logs, holds, without = [], 0, 0
    for _ in range(100):
        cells = study(rng, trials, apart)
        for each in figures(cells, "AdamW", declared)[:2]:
            without += (each.speedup.low or 0) <= TRUE <= (each.speedup.high or np.inf)
        for each in lucky_figures(cells, "AdamW", declared)[:2]:
            holds += (each.speedup.low or 0) <= TRUE <= (each.speedup.high or np.inf)
            logs.append(np.log(each.speedup.value or TRUE) - np.log(TRUE))
    assert holds >= 0.93 * 200
    if EQUAL in apart.values() and len(set(trials.values()) | set(apart.values())) > 2:
        assert without < 0.85 * 200
    if trials["AdamW"] == trials["soap"] and apart["AdamW"] == apart["soap"]:
        assert np.mean(logs) == pytest.approx(0, abs=3 * np.std(logs) / np.sqrt(len(logs)))


def test_one_trial_has_no_luck():
    cells = study(np.random.default_rng(3), {"AdamW": 1, "soap": 1}, {"AdamW": EQUAL, "soap": EQUAL})
    declared = Declared(Sigma(SIGMA, "these trials"))
    assert lucky_figures(cells, "AdamW", declared) == figures(cells, "AdamW", declared)
    assert raised(Cell("a", "b", 1.0, 1, (3.0,)), SIGMA, 1).losses == (3.0,)
    with pytest.raises(ValueError, match="needs a declared sigma"):
        lucky_figures(cells, "AdamW", Declared())
