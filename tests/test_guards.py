"""Which runs decide nothing, and which lengths are no rungs, on studies whose true speed-ups are known."""

import pytest

from tests.study import compared, row, write_run, write_study


@pytest.mark.parametrize("device", [None, {}, {"type": "cuda"}, {"type": "cuda", "name": None}])
@pytest.mark.parametrize("both", [True, False])
def test_an_unknown_device_is_not_the_same_device(tmp_path, device, both):
    """The newcomer was timed elsewhere, 20 times slower: that says nothing of it."""
    unknown = {"manifest": {"device": device}}
    write_study(tmp_path, {}, noise=0.002, **(unknown if both else {}))
    for seed in range(3):
        write_run(tmp_path, "soap", 2000, seed, 1.5, noise=0.002, seconds_per_step=2.0, **unknown)
    comparison = compared(tmp_path)
    seconds = row(comparison, "soap", axis="seconds")
    assert (seconds.verdict, seconds.speedup.interval) == (None, "")
    assert any("no verdict in seconds" in note for note in seconds.notes)
    assert row(comparison, "soap").verdict == "faster"


@pytest.mark.parametrize("slower", [1.0, 3.5])
def test_steps_of_a_gpu_that_are_three_times_apart_are_mentioned(tmp_path, slower):
    write_study(tmp_path, {}, noise=0.002)
    for seed in range(3):
        pace = 0.1 * (slower if seed == 2 else 1)
        write_run(tmp_path, "soap", 2000, seed, 1.5, noise=0.002, seconds_per_step=pace)
    result = row(compared(tmp_path), "soap", axis="seconds")
    assert result.verdict
    assert any("took 3.5 times as long in one run as in another" in note for note in result.notes) == (slower > 3)


@pytest.mark.parametrize(("tokens", "verdict"), [(512, "underpowered"), (32768, "faster")])
def test_an_evaluation_on_few_tokens_decides_nothing(tmp_path, tokens, verdict):
    config = {"eval.tokens": tokens}
    result = row(compared(write_study(tmp_path, {"soap": 1.5}, noise=0.002, config=config)), "soap")
    assert result.verdict == verdict
    assert any("evaluations on 32,768 tokens or more, not 512" in note for note in result.notes) == (tokens == 512)


def test_an_evaluation_on_the_whole_split_is_as_large_as_the_split(tmp_path):
    whole = {"config": {"eval.tokens": None}, "manifest": {"data.val_tokens": 512}}
    assert row(compared(write_study(tmp_path, {"soap": 1.5}, noise=0.002, **whole)), "soap").verdict == "underpowered"


def test_a_rung_of_few_updates_is_left_out(tmp_path):
    """A rung of 100 updates, where averages of curvature are still warming up, is no part of any law."""
    write_study(tmp_path, {"soap": 1.5}, noise=0.002)
    before = row(compared(tmp_path), "soap")
    for seed in range(3):
        write_run(tmp_path, "adamw", 100, seed, 0.2, noise=0.002)
    after = row(compared(tmp_path), "soap")
    assert (after.speedup, after.verdict) == (before.speedup, before.verdict)
    why = "the runs of adamw for 100 updates are no rungs of its ladder: they have fewer than 500 updates"
    assert after.notes == (why, *before.notes)


def test_reverse_can_say_no_difference(tmp_path):
    """Both arms have the ladder T/2, T, 2T: the rule asks at T, where it can see both ways."""
    words = []
    for study in range(10):
        folder = tmp_path / str(study)
        write_study(folder, {}, noise=0.002)
        for seed in range(3):
            for steps in (1000, 2000, 4000):
                write_run(folder, f"adam{study}", steps, seed, noise=0.002)
        result = row(compared(folder), f"adam{study}", "reverse")
        assert result.length == 2000
        words.append(result.verdict)
    assert words.count("no difference seen") >= 8
