"""The comparison of run folders whose true speed-ups are known."""

import math

import numpy as np
import pytest

from judge.curve import crossing
from judge.estimate import Speedup
from judge.records import Point
from judge.row import verdict_on
from tests.study import compared, law, row, write_run, write_study

CPU = {"device.type": "cpu", "device.name": "Xeon"}


def test_matched_gives_the_true_speed_up_on_every_axis(tmp_path):
    write_study(tmp_path, {}, seeds=3)
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.3, flops_per_step=1.3e9, seconds_per_step=0.15)
    comparison = compared(tmp_path)
    for axis, expected in {"steps": 1.3, "flops": 1.3 / 1.3, "seconds": 1.3 / 1.5}.items():
        assert row(comparison, "soap", axis=axis).speedup.value == pytest.approx(expected, rel=1e-6)
    assert row(comparison, "soap").length == 2000


def test_soaps_rule_gives_the_true_speed_up_from_the_newcomers_ladder(tmp_path):
    write_study(tmp_path, {}, seeds=3, noise=0.002)
    for seed in range(3):
        for steps in (1000, 1250, 1500, 1750, 2000):
            write_run(tmp_path, "soap", steps, seed, 1.5, noise=0.002, flops_per_step=1.25e9)
    comparison = compared(tmp_path)
    steps, flops = row(comparison, "soap", "reverse"), row(comparison, "soap", "reverse", "flops")
    assert steps.length == 2000
    assert steps.speedup.value == pytest.approx(1.5, rel=0.03)
    assert steps.speedup.low < 1.5 < steps.speedup.high
    assert flops.speedup.value == pytest.approx(steps.speedup.value / 1.25)
    assert (steps.verdict, flops.verdict) == ("faster", "faster, by less than 1.25")
    assert row(comparison, "soap", "matched").speedup.value == pytest.approx(1.5, rel=0.03)


def test_soaps_rule_says_when_the_newcomer_has_no_ladder(tmp_path):
    result = row(compared(write_study(tmp_path, {"soap": 1.3})), "soap", "reverse")
    assert not result.speedup.known
    assert result.notes == ("needs a ladder of soap: 3 lengths or more, not 1",)


@pytest.mark.parametrize(("true", "verdict"), [(1.5, "faster"), (0.7, "slower"), (1.0, "no difference seen")])
def test_verdicts_with_three_seeds(tmp_path, true, verdict):
    comparison = compared(write_study(tmp_path, {"soap": true}, noise=0.002))
    result = row(comparison, "soap")
    assert result.verdict == verdict
    assert result.speedup.low < true < result.speedup.high
    assert result.seeds == 3
    assert comparison.warnings == []
    assert comparison.footnotes == []


def test_much_noise_is_underpowered_and_one_seed_too(tmp_path):
    assert row(compared(write_study(tmp_path / "a", {"soap": 1.1}, noise=0.06)), "soap").verdict == "underpowered"
    result = row(compared(write_study(tmp_path / "b", {"soap": 1.1}, seeds=1)), "soap")
    assert result.verdict == "underpowered"
    assert result.speedup.value == pytest.approx(1.1, rel=1e-6)
    assert not result.speedup.interval
    assert "needs 3 seeds at every length for an interval, not 1" in result.notes


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, None, "faster"),
        (None, 1.0, "slower"),
        (1.01, 1.26, "faster"),
        (1.01, 1.25, "faster, by less than 1.25"),
        (0.79, 0.99, "slower"),
        (0.8, 0.99, "slower, by less than 1.25"),
        (0.81, 1.24, "no difference seen"),
        (0.79, 1.24, "underpowered"),
        (0.9, None, "underpowered"),
    ],
)
def test_the_words(low, high, verdict):
    assert verdict_on(Speedup(1.0, low, high)) == verdict
    assert verdict_on(Speedup(None)) is None


@pytest.mark.parametrize(("true", "firm"), [(1.5, "faster"), (0.7, "slower"), (1.0, "no difference seen")])
def test_too_few_updates_are_underpowered(tmp_path, true, firm):
    study = {"noise": 0.002, "ladder": (1000, 1999, 4000)}
    small = compared(write_study(tmp_path / "a", {"soap": true}, length=1999, **study))
    enough = compared(write_study(tmp_path / "b", {"soap": true}, length=2000, **study))
    for axis in ("steps", "flops", "seconds"):
        result = row(small, "soap", axis=axis)
        assert result.verdict == "underpowered"
        assert result.speedup.low < true < result.speedup.high
        assert row(enough, "soap", axis=axis).verdict == firm
    why = "runs too small for a verdict, which takes at least 2,000 updates, not 1,999"
    assert why in small.notes
    assert why in row(small, "soap").notes
    assert not any("too small" in note for note in enough.notes)


@pytest.mark.parametrize(("split", "verdict"), [(4000 * 1024 // 4, "faster"), (4000 * 1024 // 5, "underpowered")])
def test_too_many_epochs_are_underpowered(tmp_path, split, verdict):
    """Epochs of the longest run of the ladder: 4,000 updates of 1,024 tokens."""
    manifest = {"data.train_tokens": split}
    write_study(tmp_path, {}, noise=0.002, manifest=manifest)
    for seed in range(3):
        for steps in (1000, 1500, 2000):
            write_run(tmp_path, "soap", steps, seed, 1.5, noise=0.002, manifest=manifest)
    comparison = compared(tmp_path)
    result = row(comparison, "soap")
    assert result.verdict == verdict
    assert result.speedup.value == pytest.approx(1.5, rel=0.05)
    assert row(comparison, "soap", "reverse").verdict == "faster"  # whose ladder is of 2,000 updates at most
    why = "runs too small for a verdict, which takes at most 4 epochs of the training split in the longest run, not 5"
    assert any(note.startswith(why) for note in result.notes) == (verdict == "underpowered")


@pytest.mark.parametrize("key", ["data.train_tokens", "tokens_per_step"])
def test_epochs_that_no_manifest_tells_are_no_complaint(tmp_path, key):
    comparison = compared(write_study(tmp_path, {"soap": 1.5}, noise=0.002, manifest={key: None}))
    assert row(comparison, "soap").verdict == "faster"
    assert not any("too small" in note for note in comparison.notes)


def test_a_toy_study_says_both_and_decides_nothing(tmp_path):
    toy = {"data.train_tokens": 1000}
    for seed in range(3):
        for steps in (3, 4, 5):
            write_run(tmp_path, "adamw", steps, seed, 1000, noise=0.002, manifest=toy)
        write_run(tmp_path, "lion", 4, seed, 850, noise=0.002, manifest=toy)
        write_run(tmp_path, "muon", 4, seed, until=3, status="diverged", manifest=toy)
    comparison = compared(tmp_path)
    assert {each.verdict for each in comparison.rows if each.optimizer == "lion"} == {"underpowered", None}
    assert row(comparison, "lion").speedup.high < 1
    assert "at least 2,000 updates, not 4, and at most 4 epochs" in row(comparison, "lion").notes[-1]
    assert row(comparison, "muon").verdict == "diverged"


def test_one_length_needs_a_ladder_and_invents_nothing(tmp_path):
    comparison = compared(write_study(tmp_path, {"lion": 0.9, "muon": 1.3}, ladder=(2000,), noise=0.002))
    assert row(comparison, "muon").speedup == Speedup(1.0, 1.0, None, "above")
    assert row(comparison, "lion").speedup == Speedup(1.0, None, 1.0, "below")
    assert "needs a ladder of adamw: 3 lengths or more around 2000 updates, not 1" in row(comparison, "lion").notes[0]


def test_seconds_on_a_cpu_are_shown_and_decide_nothing(tmp_path):
    comparison = compared(write_study(tmp_path, {"soap": 1.5}, noise=0.002, manifest=CPU))
    seconds = row(comparison, "soap", axis="seconds")
    assert seconds.speedup.value == pytest.approx(1.5, rel=0.05)
    assert seconds.verdict is None
    assert not seconds.speedup.interval
    assert row(comparison, "soap").verdict == "faster"
    assert any("CPU that others may share" in note for note in comparison.notes)


def test_unlike_hardware_gives_no_verdict_in_seconds(tmp_path):
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.5, noise=0.002, manifest={"device.name": "NVIDIA A100"})
    comparison = compared(tmp_path)
    assert row(comparison, "soap", axis="seconds").verdict is None
    assert row(comparison, "soap", axis="seconds").speedup.value == pytest.approx(1.5, rel=0.05)
    assert row(comparison, "soap").verdict == "faster"
    assert any("NVIDIA A100; NVIDIA H100" in note for note in comparison.footnotes)


def test_a_compiled_arm_beside_one_that_is_not_gives_no_verdict_in_seconds(tmp_path):
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002, manifest={"resolved.compile": False})
    seconds = row(compared(tmp_path), "soap", axis="seconds")
    assert seconds.verdict is None
    assert "timed partly with and partly without torch.compile: no verdict in seconds" in seconds.notes


def test_a_busy_cpu_gives_no_figure_in_seconds_at_all(tmp_path):
    cpu = {"device.type": "cpu", "device.name": "a CPU"}
    write_study(tmp_path, {}, noise=0.002, manifest=cpu)
    for seed in range(3):
        pace = 0.1 * (1 + 0.14 * seed)
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002, seconds_per_step=pace, manifest=cpu)
    comparison = compared(tmp_path)
    assert row(comparison, "soap").verdict == "faster"
    for rule in ("matched", "target"):
        result = row(comparison, "soap", rule, "seconds")
        assert (result.speedup, result.verdict) == (Speedup(None), None)
        assert any("took 1.3 times as long in one run as in another" in note for note in result.notes)


def test_a_run_that_went_on_elsewhere_gives_no_verdict_in_seconds(tmp_path):
    def part(step: int, name: str, **resolved) -> dict:
        return {"step": step, "ranks": 1, "device": {"type": "cuda", "name": name, "count": 1}, "resolved": resolved}

    h100 = "NVIDIA H100"
    for seed, (began, resumes, expected) in enumerate(
        [
            (part(0, "NVIDIA A100"), [part(400, h100)], "run on unlike hardware (NVIDIA A100; NVIDIA H100)"),
            (part(0, "NVIDIA A100"), [part(0, h100)], None),  # what the other card did was lost
            (part(0, h100, compile=True), [part(400, h100, compile=False)], "before and after compile changed"),
        ]
    ):
        folder = tmp_path / str(seed)
        write_study(folder, {}, noise=0.002)
        for each in range(3):
            manifest = {"began": began, "resumes": resumes} if each == 0 else None
            write_run(folder, "soap", 2000, each, 1.3, noise=0.002, manifest=manifest)
        result = row(compared(folder), "soap", axis="seconds")
        assert (result.verdict is None) == (expected is not None)
        assert expected is None or any(expected in note for note in result.notes)


def test_timing_noise_widens_the_interval_in_seconds(tmp_path):
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002, seconds_per_step=0.1 * (1 + 0.2 * seed))
    steps, seconds = (row(compared(tmp_path), "soap", axis=axis).speedup for axis in ("steps", "seconds"))
    # Nine runs of the ladder at one pace, three of soap's at 1, 1.2 and 1.4 of it: 2 degrees of freedom, t = 4.303.
    logs = np.log([1, 1.2, 1.4])
    blur = 4.3027 * math.sqrt(((logs - logs.mean()) ** 2).sum() / 2 / 3)
    assert seconds.value == pytest.approx(steps.value / math.exp(logs.mean()))
    expected = math.hypot(math.log(steps.high / steps.value), blur)
    assert math.log(seconds.high / seconds.value) == pytest.approx(expected, rel=1e-3)


def test_unknown_flops_give_no_figure_in_flops(tmp_path):
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002, flops_per_step=None)
    comparison = compared(tmp_path)
    for rule in ("matched", "target"):
        result = row(comparison, "soap", rule, "flops")
        assert (result.speedup, result.verdict) == (Speedup(None), None)
        assert row(comparison, "soap", rule, "seconds").speedup.known
    assert "the FLOPs of soap are unknown: no figure in FLOPs" in comparison.footnotes


def test_target_is_the_first_crossing_and_never_decides(tmp_path):
    comparison = compared(write_study(tmp_path, {"muon": 1.3, "lion": 0.8}, flops_per_step=2e9))
    assert comparison.target == pytest.approx(law(2000))
    base, muon, lion = comparison.standings
    assert base.reached.steps == 2000
    assert (muon.optimizer, lion.optimizer) == ("muon", "lion")
    assert muon.reached.loss == comparison.target
    assert 1000 < muon.reached.steps < 2000
    assert muon.reached.flops == pytest.approx(2e9 * muon.reached.steps)
    result = row(comparison, "muon", "target", "flops")
    assert result.speedup == Speedup(pytest.approx(2000 / muon.reached.steps))
    assert result.verdict is None
    assert lion.reached is None
    assert row(comparison, "lion", "target").speedup == Speedup(1.0, None, None, "below")


def test_a_target_that_only_the_newcomer_reached(tmp_path):
    comparison = compared(write_study(tmp_path, {"muon": 1.3}), target=(law(2000) + law(2600)) / 2)
    result = row(comparison, "muon", "target").speedup
    assert result.censored == "above"
    assert result.value == pytest.approx(2000 / comparison.standings[1].reached.steps)
    assert not row(compared(tmp_path, target=0.1), "muon", "target").speedup.known


def test_crossings_are_interpolated_between_evaluations():
    curve = [
        Point(4.0, 0, 0.0, 0.0),
        Point(3.0, 100, 10.0, None),
        Point(3.5, 200, 20.0, 4.0),
        Point(2.0, 300, 30.0, 6.0),
    ]
    assert crossing(curve, 3.25) == Point(3.25, 75.0, 7.5, None)
    assert crossing(curve, 4.5) == curve[0]
    assert crossing(curve, 2.5) == Point(
        2.5, pytest.approx(200 + 100 * 2 / 3), pytest.approx(20 + 10 * 2 / 3), pytest.approx(4 + 2 * 2 / 3)
    )
    assert crossing(curve, 1.9) is None


def test_no_effect_is_seldom_called_one(tmp_path):
    """Folders of two arms that are the same but for luck: at most one in twenty, within what 20 studies can tell."""
    words = []
    for study in range(20):
        folder = write_study(tmp_path / str(study), {f"adam{study}": 1.0}, noise=0.01)
        words.append(str(row(compared(folder), f"adam{study}").verdict).partition(",")[0])
    assert set(words) <= {"faster", "slower", "no difference seen", "underpowered"}
    assert sum(word in ("faster", "slower") for word in words) <= 4  # 99.7 % of the time, were it 5 %
