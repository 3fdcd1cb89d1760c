"""bench_suite's loss curves: what is trained, what is compared, and what becomes of a run that fails."""

import math

import pytest

from harness.sweep.planned import SweepEnding
from scripts.suite import curves
from scripts.suite.folder import Deadline
from tests.test_bench_suite import BED
from tests.tuned import Pretended

PAIR = curves.Pair("bfloat16", ("dtype=float32",), ("dtype=bfloat16",))


def test_the_largest_difference_is_of_means_over_windows():
    flat = [2.0] * 30
    assert curves.largest_difference(flat, flat) == 0
    assert curves.largest_difference([3.0, *flat[1:]], flat) == pytest.approx(0.5)  # windows of two
    assert curves.largest_difference([3.0, 1.0, *flat[2:]], flat) == 0


def test_the_same_seed_and_another_are_trained_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = []

    def train(runs, study, overrides, seconds):
        begun.append(len(runs))
        for run in runs:
            if len(begun) == 1 and run.config["seed"] == 1:
                return SweepEnding(study, 130, True, {})
            Pretended(limit=0 if run.config["optimizer"]["name"] == "lion" else math.inf).write(run)
        return SweepEnding(study, 0, False, {})

    monkeypatch.setattr(curves, "sweep_runs", train)
    rows: list[curves.Row] = []
    measure = lambda pair: curves.measure([pair], BED, rows, Deadline(9), 0, print)  # noqa: E731
    assert (measure(PAIR), rows) == (1, [])
    assert measure(PAIR) == 0
    assert measure(PAIR) == 0
    assert begun == [3, 1]
    (row,) = rows
    assert row["commits"] == rows[0]["commits"] != ""
    assert row["title"] == "bfloat16"
    assert row["largest"] == row["final"] == 0  # the law knows no dtype, and the luck is the seed's
    assert row["of_seeds"] > 0 < row["final_of_seeds"]
    assert measure(curves.Pair("diverging", ("optimizer=sgd",), ("optimizer=lion",))) == 0
    assert rows[1]["error"] == "diverged: the loss is NaN"
    assert "diverged: the loss is NaN" in curves.table(rows)


def test_what_fails_before_it_has_a_run_is_a_row_and_tried_again_at_another_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = []

    def train(runs, study, *_):
        begun.append(len(runs))
        return SweepEnding(study, 130, True, {"one": "no disk"} if len(begun) == 1 else {})

    monkeypatch.setattr(curves, "sweep_runs", train)
    rows: list[curves.Row] = []
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "one") == 0
    assert [(row["error"], row["commit"]) for row in rows] == [("a run did not end: no disk", "one")]
    assert "| a run did not end: no disk |" in curves.table(rows)
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "one") == 0
    assert begun == [3]
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "two") == 1
    assert (begun, rows) == ([3, 3], [])
