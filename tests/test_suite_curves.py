"""bench_suite's loss curves: what is trained, what is compared, and what becomes of a run that fails."""

import math

import pytest
import yaml

from harness.sweep.jobs import Job
from scripts.study.training import Training
from scripts.suite import curves, training
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

    def train(experiments, overrides, seconds):
        begun.append(len(experiments))
        for values in map(yaml.safe_load, experiments.values()):
            if len(begun) == 1 and values["seed"] == 1:
                return False  # the time is over
            del values["defaults"]
            Pretended(limit=0 if values["optimizer"]["name"] == "lion" else math.inf).write(Training(values))
        return True

    monkeypatch.setattr(curves, "train", train)
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

    def train(experiments, *_):
        begun.append(len(experiments))
        if len(begun) == 1:
            raise ValueError("a run did not end")
        return False  # the time is over

    monkeypatch.setattr(curves, "train", train)
    rows: list[curves.Row] = []
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "one") == 0
    assert [(row["error"], row["commit"]) for row in rows] == [("a run did not end", "one")]
    assert "| a run did not end |" in curves.table(rows)
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "one") == 0
    assert begun == [3]
    assert curves.measure([PAIR], BED, rows, Deadline(9), 0, print, "two") == 1
    assert (begun, rows) == ([3, 3], [])


def test_a_sweep_that_fails_says_why(tmp_path, monkeypatch):
    def command(experiments, study, overrides):
        Job(tmp_path, 0, []).record("finished")
        Job(tmp_path, 1, []).record("failed", "data.dir cannot be written")
        return ["false"], tmp_path

    monkeypatch.setattr(training, "command", command)
    with pytest.raises(ValueError, match=r"a run did not end: data.dir cannot be written; .*jobs.jsonl tells of every"):
        training.train({"one": "", "two": ""}, [], 9)
