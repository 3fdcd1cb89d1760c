"""How often the interval holds the truth, on studies whose law, noise and speed-up are known.

tests/coverage.py writes the same figures into docs/interval.md. Bounds leave 3 to 3.3 standard errors of chance.
"""

import math
import re

import numpy as np
import pytest

from judge.contrast import Contrast, Sample
from judge.ladder import Ladder
from tests.cases import quick_cases
from tests.coverage import BEGIN, END, LAWS, PAGE, THREE, WARMUPS, T, cover, table
from tests.study import compared, row, write_study

HIDDEN = "kink at 1.4 T, between rungs"  # which no run shows
SEEN = [law for law in LAWS if law != HIDDEN]


@pytest.mark.parametrize("law", quick_cases(SEEN, SEEN[:3]))
def test_it_covers_the_truth_where_the_law_is_only_nearly_right(law):
    """One law through all five rungs covers it in 0 to 1 % of these studies, but for the right law and two powers."""
    assert cover(law, 1.0, 0.002, 8, 40)[0] >= 0.84  # 95 %
    assert cover(law, 1.15, 0.002, 8, 40)[0] >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "seeds"), [(0.002, 8), (0.005, 3), (0.02, 3)])
@pytest.mark.parametrize("true", [1.0, 1.15, 1.3, 1.41])
@pytest.mark.parametrize("law", SEEN)
def test_it_covers_the_truth_in_90_percent(law, true, sigma, seeds):
    covered, _ = cover(law, true, sigma, seeds, 500)
    assert covered >= 0.90
    if law == "power law":
        assert 0.93 - 0.02 <= covered <= 0.97 + 0.02


@pytest.mark.parametrize("law", WARMUPS)
def test_a_warm_up_that_is_known_comes_off_the_length(law):
    """Three rungs do not show it: 72 % and 43 % would cover a true 1.15 and 1.3 beside a warm-up of 400 updates."""
    assert cover(law, 1.3, 0.002, 8, 100, THREE, WARMUPS[law])[0] >= 0.87
    loss = LAWS[law]
    known = Ladder({int(rung * T): [loss(rung * T)] for rung in THREE}, WARMUPS[law])
    assert known.law is not None
    assert known.law.c == pytest.approx(0.35, abs=1e-6)
    assert known.reach([loss(1.3 * T)], T).value == pytest.approx(1.3, rel=1e-6)
    step = 1e-4
    slope = (loss(T * math.exp(-step)) - loss(T * math.exp(step))) / (2 * step)
    assert known.law.slope(T)[0] == pytest.approx(slope, rel=1e-6)


def test_a_warm_up_as_long_as_a_run_is_refused():
    with pytest.raises(ValueError, match="500 updates, is as long as a run of 500"):
        Ladder({500: [3.0], 1000: [2.9], 2000: [2.8]}, warmup=500)


@pytest.mark.parametrize("power", [0.1, 0.35, 1.0])
def test_the_second_law_answers_nearly_the_same_where_a_power_law_is_right(power):
    ladder = Ladder({length: [2 + 3 * length**-power] for length in (1000, 2000, 4000)})
    second = ladder.second.reach([2 + 3 * 2800**-power], 2000).value
    assert second is not None
    assert abs(second / 1.4 - 1) < (0.003 if power < 0.5 else 0.027)
    assert ladder.second.law is not None
    assert ladder.second.loss(1000) == pytest.approx(ladder.means[0])


@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_seeds_that_both_arms_share_are_paired_where_they_correlate(seeds):
    """With a correlation of .9 the interval is narrower by a quarter at three seeds, and by half at five."""
    covered, wide = cover("power law", 1.0, 0.005, seeds, 100, THREE, correlation=0.9)
    apart, wider = cover("power law", 1.0, 0.005, seeds, 100, THREE)
    assert wide < (0.85 if seeds == 3 else 0.6) * wider
    assert min(covered, apart) >= 0.87
    assert cover("power law", 1.0, 0.005, seeds, 100, THREE, correlation=0.0)[0] >= 0.87


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("seeds", [3, 4, 8])
@pytest.mark.parametrize("true", [1.0, 1.3])
def test_looking_whether_seeds_correlate_costs_no_coverage(true, seeds, correlation):
    covered, _ = cover("power law", true, 0.005, seeds, 1000, THREE, correlation=correlation)
    assert 0.93 - 0.02 <= covered <= 0.97 + 0.015


def test_pairs_are_of_the_same_seeds_in_any_order():
    rng = np.random.default_rng(3)
    luck = rng.standard_normal(5)
    own = Sample(3 + luck, (4, 3, 2, 1, 0))
    other = Sample(3 + luck[::-1] + 0.01 * rng.standard_normal(5), (0, 1, 2, 3, 4))
    one = np.ones(1)
    assert Contrast([own], other).correlation(one) == pytest.approx(1, abs=1e-3)
    paired, apart = (Contrast([own], other).half_width(one, paired) for paired in (True, False))
    assert paired < 0.05 * apart
    for seeds in ((), (0, 1, 2, 3, 5)):
        assert Contrast([own], Sample(other.losses, seeds)).correlation(one) is None


def test_the_table_of_coverages_is_the_one_that_is_made():
    """Its rows and columns; the figures are those of the slow tests, and take minutes."""
    page = PAGE.read_text(encoding="utf-8")
    shown = page.partition(BEGIN)[2].partition(END)[0].splitlines()
    made = table(studies=1).splitlines()
    assert [line.split("|")[1] for line in shown] == [line.split("|")[1] for line in made]
    assert shown[0] == made[0]


def test_rows_say_what_was_made_of_warm_up_second_law_and_shared_seeds(tmp_path):
    write_study(tmp_path / "warm", {"soap": 1.4}, noise=0.01, config={"schedule.warmup": 200})
    notes = row(compared(tmp_path / "warm"), "soap").notes
    assert "the warm-up of adamw, 200 updates, comes off the length of its runs" in notes
    assert any(
        re.fullmatch(r"a second law, parabolas in log T, gives soap 1\.\d\d in steps \(matched\)", n) for n in notes
    )
    assert not any(note.startswith("paired") for note in notes)
    write_study(tmp_path / "shared", {"soap": 1.4}, noise=0.01, shared=0.9999)
    notes = row(compared(tmp_path / "shared"), "soap").notes
    assert "paired by seed with soap: over the seeds that both share, the losses correlate by 1.00" in notes
    assert not any("warm-up" in note for note in notes)
