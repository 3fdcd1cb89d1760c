"""Differences of a quantity between two arms: which divergences cost them their verdict, and what windows add."""

import json

import numpy as np
import pytest

from judge.arms import group_arms
from judge.claims.claim import Quantity
from judge.claims.measure import Trained, measure
from judge.claims.statement import Statement
from judge.records import find_runs
from tests.study import write_run

LOSS = Quantity("val/loss", "loss")
LOWER = Statement("it ends lower", "difference", "soap", "adamw", quantity="loss", at_most=0.0)


def measured(folder):
    arms = {arm.optimizer: Trained(arm, 2000) for arm in group_arms(find_runs(folder))}
    return measure(LOWER, LOSS, arms["soap"], arms["adamw"], True)[""]


@pytest.mark.parametrize(("seeds", "decides"), [(19, True), (18, False)])
def test_one_divergence_in_twenty_costs_no_verdict(tmp_path, seeds, decides):
    for seed in range(seeds):
        write_run(tmp_path, "adamw", 2000, seed, noise=0.002)
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002)
    write_run(tmp_path, "soap", 2000, seeds, 1.3, status="diverged", until=100)
    result = measured(tmp_path)
    assert result.decides == decides
    assert any(note.startswith(f"1 of {seeds + 1} runs of soap diverged") for note in result.notes)


def test_the_choice_of_the_windows_is_in_a_difference_of_losses(tmp_path):
    spots = 0.05 * np.random.default_rng(0).standard_normal(32)
    for seed in range(3):
        write_run(tmp_path, "adamw", 2000, seed, noise=0.002)
        write_run(tmp_path, "soap", 2000, seed, 1.3, noise=0.002)
    before = measured(tmp_path).estimate
    for path in tmp_path.glob("*/manifest.json"):
        losses = 3 + spots * ("soap" in path.parent.name)
        facts = json.loads(path.read_text()) | {"validation": {"targets": [2048] * 32, "losses": losses.tolist()}}
        path.write_text(json.dumps(facts))
    after = measured(tmp_path).estimate
    assert before.low is not None
    assert after.low is not None
    assert after.value == before.value
    assert after.low < before.low - 0.005
