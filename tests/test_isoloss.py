"""isoloss and declared sigmas, on studies whose truth is known."""

import math

import numpy as np
import pytest

from judge.arms import group_arms
from judge.comparison import compare
from judge.declared import Declared, Sigma, Slope
from judge.isoloss import isoloss, log_interval
from judge.ladder import Ladder
from judge.records import find_runs
from tests.study import GAIN, POWER, law, write_run

SIGMA = 0.0011
STUDIES = 1500
REST = [(0.7, 1.5), (1.0, 1 / 1.5), (1.0, 1.5), (1.21, 1 / 1.5)]


def slope_at(steps):
    """-dL / d ln T of the true law."""
    return POWER * GAIN * steps**-POWER


def share_covered(speedup, wrong, factor, seeds=(10, 10), freedom=485, studies=STUDIES):
    """How often the interval holds the true speed-up: both arms stop near one loss, as in track 3.

    wrong: the declared slope over the true one; factor: within which it is declared to be known.
    """
    rng = np.random.default_rng([int(100 * speedup), int(100 * wrong), int(100 * factor), *seeds])
    base, held = 3250.0, 0
    least, greatest = slope_at(base) * wrong / factor, slope_at(base) * wrong * factor
    for _ in range(studies):
        sigma = SIGMA * math.sqrt(rng.chisquare(freedom) / freedom)  # as a pooled estimate scatters
        own = base * math.exp(0.02 * rng.standard_normal())  # nobody stops at the target itself
        other = base / speedup * math.exp(0.02 * rng.standard_normal())
        ends = law(own), law(other, speedup)
        means = [end + SIGMA * rng.standard_normal(count).mean() for end, count in zip(ends, seeds, strict=True)]
        error = sigma * math.sqrt(sum(1 / count for count in seeds))
        low, high = log_interval(means[0] - means[1], error, freedom, (least, greatest))
        held += own / other * math.exp(low) <= speedup <= own / other * math.exp(high)
    return held / studies


@pytest.mark.parametrize(
    ("speedup", "wrong"),
    [(0.7, 1 / 1.5), (1.21, 1.5), *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)],
)
def test_the_interval_covers_with_a_slope_that_is_wrong_by_its_factor(speedup, wrong):
    assert 0.93 <= share_covered(speedup, wrong, factor=1.5) <= 0.97


@pytest.mark.parametrize("seeds", [(1, 20), pytest.param((10, 10), marks=pytest.mark.slow)])
def test_the_interval_covers_with_the_right_slope(seeds):
    assert 0.93 <= share_covered(1.21, wrong=1.0, factor=1.001, seeds=seeds) <= 0.97
    assert share_covered(1.21, wrong=1.0, factor=1.5, seeds=seeds) >= 0.95


def test_a_slope_beyond_its_factor_would_not_be_covered():
    assert share_covered(1.21, wrong=3.0, factor=1.1, seeds=(40, 40)) < 0.8


def test_equal_losses_give_the_ratio_of_lengths_whatever_the_slope():
    narrow, wide = log_interval(0.0, 5e-4, 485, (0.2, 0.2)), log_interval(0.0, 5e-4, 485, (0.1, 0.4))
    assert narrow[1] == -narrow[0] == pytest.approx(1.9649 * 5e-4 / 0.2, rel=1e-3)
    assert wide[1] == pytest.approx(-wide[0])
    assert wide[1] > narrow[1]


@pytest.mark.parametrize(
    ("speedup", "power"),
    [
        (0.8, 0.5),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1.3, 0.2), (0.8, 0.35), (1.0, 0.35), (1.3, 0.35))),
    ],
)
def test_a_matched_interval_with_a_declared_sigma_covers(speedup, power):
    """One seed at each of four lengths, and a sigma that somebody else measured."""
    rng = np.random.default_rng([int(100 * speedup), int(100 * power)])

    def loss(steps):
        return 2 + 3 * steps**-power

    sigma = 0.05 * (loss(1000) - loss(2000))
    held = 0
    for _ in range(600):
        declared = Sigma(sigma * math.sqrt(rng.chisquare(40) / 40), "a made-up study", 40)
        ladder = Ladder({length: [loss(length) + sigma * rng.standard_normal()] for length in (500, 1000, 2000, 4000)})
        result = ladder.reach([loss(1000 * speedup) + sigma * rng.standard_normal()], 1000, declared)
        held += (result.low or 0) <= speedup <= (result.high or math.inf)
    assert 0.93 <= held / 600 <= 0.97


def test_without_a_declared_sigma_one_seed_has_no_interval_and_three_keep_their_own():
    lengths = (500, 1000, 2000)
    single = Ladder({length: [law(length)] for length in lengths})
    assert single.reach([law(1300)], 1000).interval == ""
    assert single.reach([law(1300)], 1000, Sigma(0.001, "x")).interval
    noise = np.array([-1, 0, 1]) * 1e-3
    many = Ladder({length: law(length) + noise for length in lengths})
    assert many.reach(law(1300) + noise, 1000, Sigma(9.0, "x")) == many.reach(law(1300) + noise, 1000)


def study(tmp_path, speedup=1.25, base=(2500,), length=2000, seeds=3, noise=SIGMA):
    for seed in range(seeds):
        for steps in base:
            write_run(tmp_path, "adamw", steps, seed, noise=noise)
        write_run(tmp_path, "lion", length, seed, speedup, noise=noise)
    return {arm.optimizer: arm for arm in group_arms(find_runs(tmp_path))}


def rows_of(arms, **declared):
    return {row.axis: row for row in isoloss(arms["adamw"], arms["lion"], declared=Declared(isoloss=True, **declared))}


GIVEN = Slope(slope_at(2500) * math.log(2), 1.5, "the law of these studies")


def test_isoloss_finds_the_speed_up_at_each_arms_own_length(tmp_path):
    rows = rows_of(study(tmp_path), slope=GIVEN)
    assert rows["steps"].speedup.value == pytest.approx(1.25, rel=0.01)
    assert rows["steps"].verdict == "faster"
    assert (rows["steps"].length, rows["steps"].seeds) == (2000, 3)
    assert rows["seconds"].speedup.value == pytest.approx(rows["steps"].speedup.value)
    assert any("1.5" in note or "of these studies" in note for note in rows["steps"].notes)


def test_a_difference_in_loss_is_turned_into_length(tmp_path):
    rows = rows_of(study(tmp_path, speedup=1.27, noise=0.0), slope=GIVEN)
    assert rows["steps"].speedup.value == pytest.approx(1.27, rel=0.002)
    assert rows["steps"].speedup.interval == ""  # identical seeds tell no sigma


def test_the_slope_may_be_the_baselines_own(tmp_path):
    arms = study(tmp_path, speedup=1.27, base=(1250, 2500, 5000))
    rows = rows_of(arms)
    assert rows["steps"].speedup.value == pytest.approx(1.27, rel=0.01)
    assert any("the law of adamw" in note for note in rows["steps"].notes)


def test_what_isoloss_cannot_say(tmp_path):
    arms = study(tmp_path / "a", speedup=1.6)
    assert "isoloss takes arms that ended within 0.01 nats" in rows_of(arms, slope=GIVEN)["steps"].notes[-1]
    near = study(tmp_path / "b")
    assert "needs a slope" in rows_of(near)["steps"].notes[-1]
    away = law(2500) + 0.02
    assert f"from {away:.4f}" in rows_of(near, slope=GIVEN, loss=away)["steps"].notes[-1]
    assert rows_of(near, slope=GIVEN, loss=law(2500) + 0.005)["steps"].speedup.known


def test_one_seed_takes_a_declared_sigma(tmp_path):
    arms = study(tmp_path, seeds=1)
    assert rows_of(arms, slope=GIVEN)["steps"].speedup.interval == ""
    rows = rows_of(arms, slope=GIVEN, sigma=Sigma(SIGMA, "track 3, pooled", 485))
    assert rows["steps"].verdict == "faster"
    assert any("declared (track 3, pooled, 485 degrees of freedom)" in note for note in rows["steps"].notes)
    assert rows["seconds"].speedup.interval == ""  # one run's clock is no measurement of a step's cost


def test_isoloss_is_asked_for(tmp_path):
    study(tmp_path)
    runs = find_runs(tmp_path)
    assert "isoloss" not in {row.rule for row in compare(runs, "adamw").rows}
    assert "isoloss" in {row.rule for row in compare(runs, "adamw", declared=Declared(isoloss=True)).rows}


def test_an_arm_stands_at_its_own_length_where_it_lacks_the_baselines(tmp_path):
    study(tmp_path)
    comparison = compare(find_runs(tmp_path), "adamw")
    base, lion = comparison.standings
    assert (comparison.length, base.length, lion.length) == (2500, 2500, 2000)
    assert lion.seeds == 3
    assert comparison.after(lion) == " after 2,000 updates"
    assert comparison.after(base) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sigma(0.001, ""), lambda: Sigma(-1.0, "x"), lambda: Sigma(math.nan, "x"), lambda: Sigma(0.1, "x", 0),
        lambda: Slope(0.1, 1.5, ""), lambda: Slope(0.0, 1.5, "x"), lambda: Slope(0.1, 0.9, "x"),
    ],
)  # fmt: skip
def test_a_declaration_without_source_or_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"declared sigma|slope"):
        wrong()
