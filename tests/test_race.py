"""A race: which studies are one, who led it, and in what order the others came."""

import pytest

from judge import race
from tests.study import compared, write_run, write_study


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
    expected = f"{comparison.standings[0].reached.steps / soap.reached.steps:.2f} times as fast"
    assert expected in race.leader(comparison)
    assert "OPTIMIZER=soap" in race.verdict_takes(comparison)


def test_the_baseline_may_lead(tmp_path):
    comparison = racing(tmp_path, {"lion": 0.7})
    assert race.leader(comparison).startswith("adamw led: no other optimizer came to adamw's final loss")
    assert "OPTIMIZER=lion" in race.verdict_takes(comparison)


@pytest.mark.parametrize(("target", "words"), [(2.0, "nobody came to 2.0000"), (3.0, "led: it came to 3.0000, after")])
def test_another_target_is_not_called_the_baselines(tmp_path, target, words):
    assert words in race.leader(racing(tmp_path, {"soap": 1.3}, target=target))


def test_what_is_too_small_for_any_verdict_is_noted(tmp_path):
    comparison = compared(write_study(tmp_path, {"soap": 1.3}, ladder=(1000,), length=1000, seeds=1))
    assert race.notes(comparison)[0].startswith("runs too small for a verdict")
