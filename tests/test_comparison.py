"""Which runs are compared, which of an optimizer's settings stands for it, and what is said of the others."""

import math

import numpy as np
import pytest

from judge.estimate import Speedup
from judge.records import find_runs
from tests.study import compared, row, write_run, write_study


def test_the_best_setting_stands_for_its_optimizer_and_the_count_is_told(tmp_path):
    for seed in range(3):
        for steps in (1000, 2000, 4000):
            write_run(tmp_path, "adamw", steps, seed, noise=0.002)
        for rate, true in {3e-4: 0.9, 1e-3: 1.4, 3e-3: 1.2}.items():
            write_run(tmp_path, "soap", 2000, seed, true, noise=0.002, config={"optimizer.lr": rate})
    comparison = compared(tmp_path)
    assert [standing.arm.label for standing in comparison.standings] == ["adamw", "soap lr=0.001"]
    assert comparison.standings[1].tried == 3
    assert row(comparison, "soap").speedup.value == pytest.approx(1.4, rel=0.03)
    assert comparison.warnings == ["unequal tuning: adamw is the best of 1 settings, soap of 3"]


def test_one_lucky_seed_does_not_stand_for_an_optimizer(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, noise=0.002)
    write_run(tmp_path, "soap", 2000, 0, 1.9, config={"optimizer.lr": 5e-3})
    assert compared(tmp_path).standings[1].arm.label == "soap lr=0.001"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.width", 128),
        ("context", 256),
        ("batch.tokens", 2048),
        ("eval.tokens", 1024),
        ("data.fingerprint", "xyz"),
    ],
)
def test_runs_of_other_data_or_models_are_never_compared(tmp_path, key, value):
    write_study(tmp_path, {})
    where = "manifest" if key == "data.fingerprint" else "config"
    write_run(tmp_path, "soap", 2000, **{where: {key: value}})
    with pytest.raises(ValueError, match=f"cannot be compared, {key} is .* in one and .*{value} in the other"):
        compared(tmp_path)


def test_what_differs_outside_the_optimizer_is_a_warning(tmp_path):
    write_study(tmp_path, {}, seeds=1)
    changed = {"schedule.final": 0.01, "schedule.warmup": 50, "grad_clip": None}
    write_run(tmp_path, "soap", 2000, 1, config=changed, manifest={"resolved.dtype": "float32"})
    assert set(compared(tmp_path).warnings) == {
        "schedule.final differs: 0.1 for adamw, 0.01 for soap",
        "schedule.warmup differs: 0.1 for adamw, 50 for soap",
        "grad_clip differs: 1 for adamw, null for soap",
        "dtype differs: bfloat16 for adamw, float32 for soap",
        "seed (the order of the data) differs: 0 for adamw, 1 for soap",
    }


def test_where_a_run_is_kept_and_watched_does_not_make_it_another_arm(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, seeds=1)
    aside = {
        "tracker.name": "wandb",
        "checkpoint.every": 7,
        "study": "b",
        "data.dir": "/elsewhere",
        "log": {"every": 1},
    }
    write_run(tmp_path / "b", "soap", 2000, 1, 1.3, config=aside)
    comparison = compared(tmp_path)
    assert [arm.label for arm in comparison.arms] == ["adamw", "soap"]
    assert comparison.standings[1].seeds == 2


def test_what_changes_the_last_bits_alone_is_no_setting(tmp_path):
    """Three seeds, one in smaller passes and one on another device, are one arm, and no unequal tuning."""
    write_study(tmp_path, {}, noise=0.002)
    for seed, config in enumerate([{}, {"batch.micro": 4}, {"device": "cuda:1", "compile": True}]):
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002, config=config)
    comparison = compared(tmp_path)
    standing = comparison.standings[1]
    assert (standing.arm.label, standing.tried, standing.seeds) == ("soap", 1, 3)
    assert comparison.warnings == []


def test_what_a_figure_lacks_is_said_where_there_is_none(tmp_path):
    """Two lengths and two seeds of a baseline give no number, and so the notes say what is missing."""
    write_study(tmp_path, {"soap": 0.8}, ladder=(1000, 2000), seeds=2, noise=0.002)
    comparison = compared(tmp_path)
    rows = [each for each in comparison.rows if each.rule == "matched"]
    assert not any(each.speedup.known or each.verdict for each in rows)
    assert any(note.startswith("needs a ladder of adamw: 3 lengths or more") for note in comparison.notes)
    assert "needs 3 seeds at every length for an interval, not 2" in comparison.notes


def test_an_external_baseline_goes_by_its_path_and_by_its_label(tmp_path):
    for steps in (1000, 2000, 4000):
        write_run(tmp_path, "external", steps, config={"optimizer._target_": "torch.optim.Adam"})
    for name, true in {"muon": 1.2, "sgd": 0.7}.items():
        write_run(tmp_path, name, 2000, 0, true)
    by_label, by_path = compared(tmp_path, "adam"), compared(tmp_path, "torch.optim.Adam")
    assert by_label.baseline == by_path.baseline == "torch.optim.Adam"
    assert by_label.rows == by_path.rows
    with pytest.raises(ValueError, match=r"'qqq' in this folder: choose from muon, sgd, torch\.optim\.Adam$"):
        compared(tmp_path, "qqq")


def test_a_name_comes_before_a_label_and_two_of_a_label_are_told_apart(tmp_path):
    write_study(tmp_path, {"lion": 1.2}, seeds=1)
    for path in ("mine.Lion", "mine.Adopt", "yours.Adopt"):
        write_run(tmp_path, "external", 2000, config={"optimizer._target_": path})
    assert compared(tmp_path, "lion").baseline == "lion"
    with pytest.raises(ValueError, match=r"'adopt' is the label of mine\.Adopt and of yours\.Adopt: give one of these"):
        compared(tmp_path, "adopt")


def test_a_repeated_run_counts_once(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, seeds=2)
    write_run(tmp_path / "again", "soap", 2000, 1, 1.3, config={"study": "again"})
    comparison = compared(tmp_path)
    assert comparison.standings[1].seeds == 2
    assert sum("counted once" in note for note in comparison.footnotes) == 1


def test_a_divergence_is_a_row_and_decides_nothing(tmp_path):
    write_study(tmp_path, {"soap": 1.5}, noise=0.002)
    write_run(tmp_path, "soap", 2000, 3, until=200, status="diverged")
    write_run(tmp_path, "kfac", 2000, 0, until=100, status="diverged")
    comparison = compared(tmp_path)
    soap, kfac = row(comparison, "soap"), row(comparison, "kfac")
    assert soap.verdict == "diverged"
    assert soap.speedup.value == pytest.approx(1.5, rel=0.03)
    assert (kfac.verdict, kfac.speedup) == ("diverged", Speedup(None))
    assert [standing.optimizer for standing in comparison.standings] == ["adamw", "soap", "kfac"]
    assert sum("diverged at step" in note for note in comparison.footnotes) == 2


@pytest.mark.parametrize(("seeds", "verdict"), [(20, "faster"), (18, "diverged")])
def test_one_divergence_in_twenty_runs_is_left_out(tmp_path, seeds, verdict):
    """The share decides: one in 20 runs of an arm may diverge, and the row says so; one in 19 is too many."""
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(seeds - 1):
        write_run(tmp_path, "soap", 2000, seed, 1.5, noise=0.002)
    write_run(tmp_path, "soap", 2000, seeds, until=200, status="diverged")
    result = row(compared(tmp_path), "soap")
    assert result.verdict == verdict
    assert result.speedup.value == pytest.approx(1.5, rel=0.03)
    assert any(note.startswith(f"1 of the {seeds} runs of soap diverged") for note in result.notes)


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "adamw", "steps": 3000},
        {"optimizer": "adamw", "steps": 8000},
        {"optimizer": "soap", "steps": 3000, "speedup": 1.5},
        {"optimizer": "soap", "steps": 4000, "speedup": 1.5},
        {"optimizer": "lion", "steps": 1000, "speedup": 0.9},
    ],
    ids=str,
)
def test_more_runs_never_destroy_a_verdict(tmp_path, more):
    """A ladder of three seeds at three lengths has a verdict; so it has with one run more, of one seed."""
    write_study(tmp_path, {"soap": 1.5}, noise=0.002)
    before = row(compared(tmp_path), "soap")
    write_run(tmp_path, seed=7, noise=0.002, **more)
    comparison = compared(tmp_path)
    after = row(comparison, "soap")
    assert before.verdict == after.verdict == "faster"
    assert (before.speedup, before.length, comparison.length) == (after.speedup, after.length, 2000)
    left_out = [note for note in after.notes if "are no rungs of its ladder: they have fewer than 3 seeds" in note]
    assert len(left_out) == (more["optimizer"] == "adamw")


def test_rungs_of_few_seeds_do_not_take_the_interval_of_the_others(tmp_path):
    """Three seeds at T alone say faster; a seed at T/2 and at 2T gives a figure, and takes nothing away."""
    write_study(tmp_path, {"soap": 1.5}, ladder=(2000,), noise=0.002)
    before = row(compared(tmp_path), "soap")
    for steps in (1000, 4000):
        write_run(tmp_path, "adamw", steps, 0, noise=0.002)
    after = row(compared(tmp_path), "soap")
    assert (before.verdict, after.verdict) == ("faster", "faster")
    assert after.speedup.value == pytest.approx(1.5, rel=0.03)
    assert (after.speedup.low, after.speedup.high) == (1.0, None)


@pytest.mark.parametrize(("rate", "stands"), [(1.0, "adamw lr=0.001"), (1.1, "adamw lr=0.002")])
def test_a_second_rate_replaces_a_ladder_only_if_it_is_surely_better(tmp_path, rate, stands):
    write_study(tmp_path, {"soap": 1.5}, noise=0.002)
    for seed in range(3, 6):
        write_run(tmp_path, "adamw", 2000, seed, 1.001 * rate, noise=0.002, config={"optimizer.lr": 2e-3})
    comparison = compared(tmp_path)
    assert comparison.standings[0].arm.label == stands
    assert row(comparison, "soap").verdict == "faster"
    assert (row(comparison, "soap").speedup.censored is None) == (rate == 1)


def test_the_common_length_is_where_the_seeds_are(tmp_path):
    """20 seeds after 3,350 updates are not left for one run of 3,600."""
    for name, speedup in {"adamw": 1.0, "soap": 1.3}.items():
        for seed in range(20):
            write_run(tmp_path, name, 3350, seed, speedup, noise=0.002)
        write_run(tmp_path, name, 3600, 0, speedup, noise=0.002)
    comparison = compared(tmp_path)
    assert comparison.length == 3350
    assert [each.seeds for each in comparison.standings] == [20, 20]


def test_a_page_of_many_comparisons_says_how_many(tmp_path):
    comparison = compared(write_study(tmp_path, {"tie": 1.0, "lion": 1.01, "soap": 1.5}, noise=0.002))
    assert row(comparison, "soap").survives is True
    assert row(comparison, "tie").survives is None  # it has no verdict that could
    note = "3 comparisons by the rule matched stand on this page: were all of them ties, chance alone would call some"
    assert sum(each.startswith(note) for each in comparison.notes) == 1


def test_one_comparison_is_not_corrected(tmp_path):
    comparison = compared(write_study(tmp_path, {"soap": 1.5}, noise=0.002))
    assert row(comparison, "soap").survives is None
    assert not any("comparisons" in note for note in comparison.notes)


def test_a_setting_that_diverges_does_not_win_by_its_lucky_seeds(tmp_path):
    write_study(tmp_path, {"soap": 1.1}, noise=0.002)
    hot = {"optimizer.lr": 1e-2}
    write_run(tmp_path, "soap", 2000, 0, until=200, status="diverged", config=hot)
    for seed in (1, 2, 3):
        write_run(tmp_path, "soap", 2000, seed, 1.8, config=hot)
    assert compared(tmp_path).standings[1].arm.label == "soap lr=0.001"


def test_unfinished_runs_and_dirty_trees_are_footnotes(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, seeds=1)
    write_run(tmp_path, "soap", 2000, 1, until=400, status="running")
    write_run(tmp_path, "soap", 2000, 2, until=0, status="failed", manifest={"error": "no space left"})
    write_run(tmp_path, "soap", 2000, 3, 1.3, manifest={"git.dirty": True, "git.commit": "bbbbbbbbbb"})
    comparison = compared(tmp_path)
    assert row(comparison, "soap").seeds == 1
    assert comparison.standings[1].seeds == 2
    notes = "\n".join(comparison.footnotes)
    assert "soap-T2000-s1 was cut off at step 400 of 2000" in notes
    assert "soap-T2000-s2 failed at step 0 of 2000: no space left" in notes
    assert "1 of 7 runs trained from a working tree with uncommitted changes" in notes
    assert "different commits: 76e1970 (6), bbbbbbb (1)" in notes
    write_run(tmp_path, "soap", 2000, 4, 1.3, manifest={"git": {"commit": None, "dirty": None}})
    assert "1 of 8 runs name no commit: their code is not known" in "\n".join(compared(tmp_path).footnotes)


def test_a_ladder_of_another_arm_is_not_borrowed(tmp_path):
    """The baseline's ladder has to be of the very settings that stand for it."""
    write_study(tmp_path, {"soap": 1.3}, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "adamw", 2000, seed, 1.1, noise=0.002, config={"optimizer.lr": 2e-3})
    comparison = compared(tmp_path)
    assert comparison.standings[0].arm.label == "adamw lr=0.002"
    assert row(comparison, "soap").speedup.censored == "above"
    assert "needs a ladder of adamw lr=0.002" in row(comparison, "soap").notes[0]


def test_spread_over_seeds_is_the_sample_standard_deviation(tmp_path):
    comparison = compared(write_study(tmp_path, {"soap": 1.3}, noise=0.01))
    losses = [run.final_loss for run in comparison.standings[1].arm.runs]
    assert comparison.standings[1].loss == pytest.approx(np.mean(losses))
    assert comparison.standings[1].spread == pytest.approx(math.sqrt(np.var(losses) * 3 / 2))


def test_a_wrapper_is_another_optimizer_with_each_base(tmp_path):
    for base in ("torch.optim.AdamW", "pytorch_optimizer.Lion"):
        section = {"_target_": "pytorch_optimizer.Lookahead", "base": {"_target_": base}}
        write_run(tmp_path, seed=len(base), config={f"optimizer.{key}": value for key, value in section.items()})
    write_run(tmp_path, "adamw")
    names = {run.optimizer for run in find_runs(tmp_path)}
    lookahead = "pytorch_optimizer.Lookahead over"
    assert names == {"adamw", f"{lookahead} torch.optim.AdamW", f"{lookahead} pytorch_optimizer.Lion"}
