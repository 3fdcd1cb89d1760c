"""What is said of optimizers that were not tuned alike: from trials on disk, none of which is left out."""

import pytest

from judge.comparison import Comparison
from judge.tuning.search import Range
from judge.tuning.table import tuning_table
from judge.tuning.trials import tuning_of, with_tuning, write_plan
from scripts.make_tables import study_table
from tests.study import compared, write_run, write_study

RATE = {"optimizer.lr": Range(1e-4, 1e-1)}


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "mine", {"lion": 1.3}, noise=0.002)


def tune(study, optimizer, count, space=RATE, first=0, **how):
    folder = study.with_name("mine-tuning") / optimizer
    for number in range(first, first + count):
        write_run(folder, optimizer, 1000, 1000, config={"optimizer.lr": 1e-3 + number * 1e-4}, **how)
    write_plan(folder, optimizer, 2000, space)


def tuned_comparison(study) -> Comparison:
    return with_tuning(compared(study), tuning_of(study))


def test_trials_that_were_stopped_after_a_step_count_and_are_named(study):
    tune(study, "adamw", 4)
    tune(study, "lion", 4)
    assert not [warning for warning in tuned_comparison(study).warnings if "unequal" in warning]
    tune(study, "lion", 2, first=10, status="running", until=950)  # nobody holds its lock: cut off
    tune(study, "lion", 3, first=20, status="failed", until=950)
    tune(study, "lion", 1, first=30, status="failed", until=0)  # showed nothing
    (warning,) = [warning for warning in tuned_comparison(study).warnings if "unequal" in warning]
    assert warning == "unequal tuning: lion got 9 trials of 1,000 updates, adamw 4 trials of 1,000 updates"
    assert (
        "5 of the 9 runs that lion was tuned on did not end (2 cut off, 3 failed): they count all the same"
        in tuned_comparison(study).notes
    )
    assert tuning_of(study)["lion"].flops == pytest.approx(4 * 1e12 + 5 * 0.95e12)


def test_a_key_that_one_alone_was_tuned_in_stays_a_mismatch_and_is_unequal(tmp_path):
    study = write_study(tmp_path / "mine", {})
    for seed in range(3):
        write_run(study, "lion", 2000, seed, 1.3, config={"schedule.final": 0.001, "schedule.warmup": 0.05})
    warm = {**RATE, "schedule.warmup": Range(0.02, 0.3)}
    tune(study, "adamw", 4, warm)
    tune(study, "lion", 4, {**warm, "schedule.final": Range(1e-3, 1e-1), "optimizer.rho": Range(0.01, 1)})
    result = tuned_comparison(study)
    assert "schedule.final differs: 0.1 for adamw, 0.001 for lion" in result.warnings
    unequal = [warning for warning in result.warnings if "unequal" in warning]
    assert unequal == [
        "unequal tuning: schedule.final of lion was searched from 0.001 to 0.1, of adamw not at all"
    ]  # and nothing of rho, which AdamW has not
    assert any(note.startswith("schedule.warmup was tuned for each") for note in result.notes)


def test_another_range_of_the_warm_up_is_unequal(study):
    tune(study, "adamw", 4, {**RATE, "schedule.warmup": Range(0.02, 0.3)})
    tune(study, "lion", 4, {"optimizer.lr": Range(1e-5, 1e-2), "schedule.warmup": Range(0.001, 0.9)})
    (warning,) = [warning for warning in tuned_comparison(study).warnings if "unequal" in warning]
    assert warning == (
        "unequal tuning: schedule.warmup of lion was searched from 0.001 to 0.9, of adamw from 0.02 to 0.3"
    )


def test_a_published_table_warns_as_the_report_does(study):
    assert "unequal" not in study_table(study)
    tune(study, "adamw", 4)
    tune(study, "lion", 12)
    assert "**warning: unequal tuning: lion got 12 trials" in study_table(study)
    table = tuning_table(study.with_name("mine-tuning"))
    assert "reported" not in table  # a tuning has none of its own
    assert [line.split(" | ")[0] for line in table.splitlines()].count("| lion") == 12
