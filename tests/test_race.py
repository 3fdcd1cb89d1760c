"""A race: which studies are one, who led it, and in what order the others came."""

import re

import pytest

from judge import race
from scripts.report import render
from tests.study import compared, write_run, write_study
from tests.test_report import Page, one_scale  # noqa: F401 (a fixture)


def racing(folder, speedups, **options):
    return compared(write_study(folder, speedups, ladder=(2000,), seeds=1), **options)


def test_what_is_a_race(tmp_path):
    assert race.is_race(racing(tmp_path / "one", {"soap": 1.3}))
    seeds = write_study(tmp_path / "seeds", {"soap": 1.3}, ladder=(2000,), seeds=2)
    assert not race.is_race(compared(seeds))
    assert not race.is_race(compared(write_study(tmp_path / "ladder", {"soap": 1.3}, seeds=1)))
    longer = write_study(tmp_path / "longer", {"soap": 1.3}, ladder=(2000,), seeds=1)
    write_run(longer, "soap", 4000, 0)
    assert not race.is_race(compared(longer))
    lost = write_study(tmp_path / "lost", {}, ladder=(2000,), seeds=1)
    write_run(lost, "soap", 2000, 0, until=300, status="diverged")
    assert not race.is_race(compared(lost))


def test_places_go_by_the_way_to_the_target_and_then_by_loss(tmp_path):
    comparison = racing(tmp_path, {"lion": 0.7, "muon": 1.2, "sgd": 0.5, "soap": 1.6})
    assert [each.optimizer for each in race.places(comparison)] == ["soap", "muon", "adamw", "lion", "sgd"]
    soap = race.places(comparison)[0]
    expected = f"a speed-up of {comparison.standings[0].reached.steps / soap.reached.steps:.2f} in steps"
    assert expected in race.leader(comparison)
    assert "OPTIMIZER=soap" in race.verdict_takes(comparison)


def test_the_baseline_may_lead(tmp_path):
    comparison = racing(tmp_path, {"lion": 0.7})
    assert race.leader(comparison).startswith("adamw led: no other optimizer reached adamw's final loss")
    assert "OPTIMIZER=lion" in race.verdict_takes(comparison)


@pytest.mark.parametrize(("target", "words"), [(2.0, "nobody reached 2.0000"), (3.0, "led: it reached 3.0000, after")])
def test_another_target_is_not_called_the_baselines(tmp_path, target, words):
    assert words in race.leader(racing(tmp_path, {"soap": 1.3}, target=target))


def test_what_is_too_small_for_any_verdict_is_noted(tmp_path):
    comparison = compared(write_study(tmp_path, {"soap": 1.3}, ladder=(1000,), length=1000, seeds=1))
    assert race.notes(comparison)[0].startswith("runs too small for a verdict")


def test_the_page_of_a_race(tmp_path, one_scale):  # noqa: F811
    """The demo's page shows who led, says once what a verdict takes, and has no badge of it."""
    write_study(
        tmp_path, {"lion": 0.9, "muon": 1.4}, ladder=(2000,), seeds=1, flops_per_step=None,
        manifest={"device.type": "cpu", "device.name": "a CPU"},
    )  # fmt: skip
    comparison = compared(tmp_path)
    page = Page(source := render(comparison))
    text = " ".join(" ".join(page.text).split())
    assert "A race against adamw" in text
    muon = comparison.standings[1]
    updates = (
        f"{muon.reached.steps:,.0f} of 2,000 updates, a speed-up of {muon.rows['steps'].speedup.value:.2f} in steps"
    )
    assert f"muon led: it reached adamw's final loss, {comparison.target:.4f}, after {updates}" in text
    assert text.count("make verdict OPTIMIZER=muon") == text.count("A verdict takes") == 1
    places = [re.sub(r"<[^>]+>|\s+", " ", each).split()[0] for each in re.findall(r"(?s)<li><b>.*?</li>", source)]
    assert places == ["muon", "adamw", "lion"]
    (bar,) = [each for each in re.findall(r"width:([\d.]+)%", source) if float(each) < 99]
    assert float(bar) == pytest.approx(100 * muon.reached.steps / 2000, abs=0.1)
    assert "speedups" not in page.tables
    assert 'class="verdicts"' not in source
    assert "underpowered" not in source.partition("<style>")[0] + source.partition("</style>")[2]
    assert "Validation loss against FLOPs" not in source
    assert "no verdict in seconds" in text
