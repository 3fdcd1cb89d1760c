"""The sentences of a report name what they are about: an axis, an arm, the tuning."""

import pytest

from judge.answer import missing, verdict
from judge.tuning.search import Range
from judge.tuning.trials import tuning_of, with_tuning, write_plan
from scripts.pages.figures import curves
from scripts.report import render
from tests.study import compared, write_run, write_study

CPU = {"manifest": {"device.type": "cpu", "device.name": "a CPU"}}


@pytest.mark.parametrize(("how", "where"), [({}, ""), (CPU, " in steps and FLOPs")])
def test_a_verdict_names_its_axes_unless_they_are_all(tmp_path, how, where):
    comparison = compared(write_study(tmp_path, {"lion": 1.5}, noise=0.002, **how))
    assert verdict(comparison, comparison.standings[1])["words"] == {"faster": where}


def test_a_divergence_has_no_axis(tmp_path):
    write_study(tmp_path, {"lion": 1.5}, noise=0.002, **CPU)
    write_run(tmp_path, "lion", 2000, 7, until=100, status="diverged", **CPU)
    comparison = compared(tmp_path)
    assert verdict(comparison, comparison.standings[1])["words"] == {"diverged": ""}


def lacking(comparison):
    return missing(comparison, {each.arm.label: each.optimizer for each in comparison.standings})


def test_who_lacks_seeds_is_named_unless_all_do(tmp_path):
    write_study(tmp_path / "all", {"lion": 1.5, "soap": 1.3}, seeds=2)
    assert lacking(compared(tmp_path / "all")) == "A verdict takes three seeds of each run."
    write_study(tmp_path / "one", {"lion": 1.5})
    write_run(tmp_path / "one", "soap", 2000, 0, 1.3)
    assert lacking(compared(tmp_path / "one")) == "A verdict takes three seeds of each run, which soap lacks."
    write_run(tmp_path / "one", "muon", 2000, 0, 1.3)
    assert "which muon and soap lack." in lacking(compared(tmp_path / "one"))


def test_warnings_of_the_tuning_alone_have_a_title_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.pages.figures.SCALES", {"linear": ("linear", "linear")})
    study = write_study(tmp_path / "mine", {"lion": 1.3}, ladder=(2000,), seeds=1)
    for optimizer, count in {"adamw": 1, "lion": 2}.items():
        folder = tmp_path / "mine-tuning" / optimizer
        for number in range(count):
            write_run(folder, optimizer, 1000, 1000, config={"optimizer.lr": 1e-3 * (1 + number)})
        write_plan(folder, optimizer, 2000, {"optimizer.lr": Range(1e-4, 1e-1)})
    page = render(with_tuning(compared(study), tuning_of(study)))
    assert "<h2>Mind how they were tuned</h2>" in page
    assert "not alike" not in page
    write_run(study, "lion", 2000, 1, 1.3)
    assert "<h2>These runs are not alike</h2>" in render(with_tuning(compared(study), tuning_of(study)))


def test_the_whole_band_of_the_seeds_is_drawn(tmp_path):
    comparison = compared(write_study(tmp_path, {"lion": 1.3}, noise=0.3))
    low, high = curves(comparison, "steps").figure.axes[0].get_ylim()
    finals = [run.final_loss for run in comparison.runs if run.steps == comparison.length]
    assert low < min(finals)
    tenth = [point.loss for run in comparison.runs for point in run.points if run.steps == 2000 and point.steps == 200]
    assert max(tenth) < high
