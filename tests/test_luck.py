"""The luck of two tunings, on made-up surfaces with equal optima."""

import math

import numpy as np
import pytest

from judge.arms import Arm
from judge.tuning.luck import beside, luck
from judge.tuning.trials import tuning_of, with_tuning
from tests.study import compared, write_run, write_study


@pytest.mark.parametrize("trials", [8, 32])
@pytest.mark.parametrize("keys", [1, 2, 4])
def test_it_covers_the_difference_that_two_tunings_make(trials, keys):
    """Without it, a difference of two equal optimizers is taken for one of their own."""
    rng = np.random.default_rng([trials, keys])
    held = 0
    for _ in range(300):
        best, tunings = [], []
        for _ in range(2):
            at, optimum = rng.uniform(-1, 1, (trials, keys)), rng.uniform(-0.5, 0.5, keys)
            losses = 3 + ((at - optimum) ** 2).sum(axis=1)
            best.append(losses.min())
            tunings.append(sorted(losses.tolist()))
        wide = luck(*tunings)
        assert wide is not None
        held += abs(best[0] - best[1]) <= wide
    assert held / 300 >= 0.93


def test_it_takes_three_trials_that_have_a_loss():
    assert luck(([3.0, 3.1]), ([3.0, 3.1, 3.2])) is None
    assert luck(([3.0, 3.1, None]), ([3.0, 3.1, 3.2])) is None
    wide = luck(([3.0, 3.1, 3.2, 9.0]), ([3.0, 3.1, 3.2]))
    assert wide == pytest.approx(2.776445 * math.sqrt(2) * 0.1, rel=1e-5)


def test_without_a_ladder_it_is_in_nats():
    arm = Arm("adamw", {}, [], "adamw")
    assert beside(([3.0, 3.1, 3.2]), ([3.0, 3.1, 3.2]), arm, 2000, "soap") == ""


def test_it_stands_beside_the_interval(tmp_path):
    """8 trials of each, and a law: nats become a factor of the speed-up."""
    write_study(tmp_path / "mine", {"soap": 1.4}, noise=0.002)
    arm = compared(tmp_path / "mine").standings[0].arm
    text = beside([3.0, 3.002, 3.004], [3.1, 3.102, 3.104], arm, 2000, "soap")
    slope = 0.35 * 9 * 2000**-0.35
    assert f"by a factor of up to {math.exp(2.776445 * math.sqrt(2) * 0.002 / slope):.2f} (95 %" in text
    for name in ("adamw", "soap"):
        for n in range(8):
            rate = {"optimizer.lr": 0.001 * (n + 1)}
            write_run(tmp_path / "mine-tuning" / name, name, 1000, 9, 1 - 0.01 * n, config=rate)
    notes = with_tuning(compared(tmp_path / "mine"), tuning_of(tmp_path / "mine")).notes
    assert any(note.startswith("tuning luck of soap: its interval is at these settings") for note in notes)
