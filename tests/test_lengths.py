"""Arms of other lengths and other numbers of seeds than the baseline's: each stands where it has its seeds."""

from itertools import pairwise

import pytest

from judge.arms import group_arms
from judge.comparison import compare
from judge.declared import Declared, Slope
from judge.isoloss import isoloss
from judge.records import find_runs
from scripts.pages import figures
from scripts.report import page
from tests.study import compared, law, write_run, write_study

SLOPE = Slope(0.1, 1.5, "a made-up study")


def twenty_and_one(tmp_path):
    """Twenty seeds of lion at 3,350 updates and one run at 3,600, where the baseline has three seeds."""
    for seed in range(3):
        write_run(tmp_path, "adamw", 3600, seed, noise=0.002)
    for seed in range(20):
        write_run(tmp_path, "lion", 3350, seed, speedup=1.07, noise=0.002)
    write_run(tmp_path, "lion", 3600, 0, speedup=1.07, noise=0.002)
    return find_runs(tmp_path)


def test_twenty_seeds_stand_before_one_run_of_the_common_length(tmp_path):
    lion = compare(twenty_and_one(tmp_path), "adamw").standings[1]
    assert (lion.length, lion.seeds) == (3350, 20)
    assert lion.loss == pytest.approx(law(3350, 1.07), abs=0.003)


def test_isoloss_takes_the_length_with_seeds(tmp_path):
    arms = {arm.optimizer: arm for arm in group_arms(twenty_and_one(tmp_path))}
    found = isoloss(arms["adamw"], arms["lion"], declared=Declared(isoloss=True, slope=SLOPE))[0]
    assert (found.length, found.seeds) == (3350, 3)
    assert found.speedup.interval


def test_a_single_run_of_another_rate_at_the_common_length_does_not_stand_for_its_optimizer(tmp_path):
    twenty_and_one(tmp_path / "a")
    write_run(tmp_path / "a", "lion", 3600, 0, speedup=1.3, config={"optimizer.lr": 0.01})
    lion = compared(tmp_path / "a").standings[1]
    assert (lion.arm.label, lion.length, lion.seeds) == ("lion lr=0.001", 3350, 20)


def test_every_arm_of_a_study_of_many_lengths_has_a_line(tmp_path, undrawn):
    """modded-nanogpt's track 3 is such a study, and ten of its eleven arms read `no run`."""
    for number, steps in enumerate((3000, 3150, 3350, 3500, 3600)):
        for seed in range(3):
            write_run(tmp_path, f"entry{number}", steps, seed, speedup=3250 / steps, noise=0.002)
    comparison = compare(find_runs(tmp_path), "entry0", declared=Declared(isoloss=True, slope=SLOPE))
    assert [each.length for each in sorted(comparison.standings, key=lambda each: each.optimizer)] == [
        3000, 3150, 3350, 3500, 3600,
    ]  # fmt: skip
    assert all(each.loss is not None for each in comparison.standings)
    text = page(comparison)
    assert "no finished run" not in text
    assert "after 3,350 updates" in text


SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in ({"batch": None}, {"batch": {}, "eval": None})]


@pytest.mark.parametrize("bare", [{"model": "gpt2", "data": "fineweb"}, *SLOW])
def test_a_report_needs_no_key_that_a_foreign_run_lacks(tmp_path, bare, undrawn):
    origin = {"format": "modded-nanogpt", "sources": [], "unknown": []}
    write_study(tmp_path, {"soap": 1.3}, noise=0.002, config=bare, manifest={"origin": origin})
    assert "soap" in page(compared(tmp_path))


def test_the_labels_along_a_ladder_do_not_overlap(tmp_path):
    """Rungs and lengths of arms that are close together have one label."""
    write_study(tmp_path, {"lion": 1.1}, ladder=(1000, 2000, 2050, 4000), length=1950, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "soap", 2010, seed, speedup=1.3, noise=0.002)
    drawing = figures.ladder(compared(tmp_path))
    assert drawing is not None
    (axes,) = drawing.figure.axes
    drawing.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(boxes) >= 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
