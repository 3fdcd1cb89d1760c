"""The choice of the validation windows in the interval: on losses by window that are made up, and in a run's folder."""

import json
import math

import numpy as np
import pytest

from judge.contrast import Contrast, Sample
from judge.ladder import Ladder
from judge.windows import EvaluationParts, aligned, mean_parts, sampling
from tests.command import in_process, manifest, rows
from tests.study import compared, row, write_study


def parts(losses, each=1024, windows="a"):
    losses = np.asarray(losses, dtype=float)
    return EvaluationParts(windows, np.full(len(losses), float(each)), losses)


def test_the_error_of_a_difference_is_that_of_its_parts():
    rng = np.random.default_rng(0)
    hard, own, other = rng.standard_normal((3, 64))
    base, new = parts(3 + hard + 0.1 * own), parts(2.9 + hard + 0.1 * other)
    ((variance, freedom),) = sampling(np.ones(1), [base], new)
    assert freedom == 63
    assert math.sqrt(variance) == pytest.approx((base.losses - new.losses).std(ddof=1) / 8)
    apart = sampling(np.ones(1), [base], new._replace(windows="b"))  # which windows are hard is then in it, twice
    assert len(apart) == 2
    assert sum(each for each, _ in apart) > 50 * variance
    assert sampling(np.ones(1), [base], None) == sampling(np.ones(1), [None], new) == []


def test_passes_of_another_size_are_put_together():
    fine = parts([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], each=8)
    coarse = parts([1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5, 15.5], each=16)
    common = aligned([fine, coarse])
    assert common is not None
    assert common[0].tolist() == [16] * 8
    assert common[1][0] == pytest.approx(common[1][1])
    assert aligned([coarse, parts([1, 2, 3, 4], each=32)]) is None  # too few to tell an error from
    assert aligned([fine, parts([1] * 8, each=8)]) is None  # not the same windows
    mean = mean_parts([coarse, coarse._replace(losses=coarse.losses + 2)])
    assert mean is not None
    assert mean.losses == pytest.approx(coarse.losses + 1)


@pytest.mark.parametrize("studies", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_interval_covers_the_difference_on_all_windows(studies):
    """Two optimizers that are equal on all text, on 64 parts: seeds alone would cover it in 40 % of the studies."""
    rng = np.random.default_rng(1)
    held = without = 0
    one = np.ones(1)
    for _ in range(studies):
        hard, of_own, of_other = 0.2 * rng.standard_normal((3, 64)) * np.array([[1], [0.2], [0.2]])
        samples = []
        for taste in (of_own, of_other):
            by_seed = 3 + hard + taste + 0.002 * rng.standard_normal((3, 1)) + 0.002 * rng.standard_normal((3, 64))
            samples.append(Sample(by_seed.mean(axis=1), (), parts(by_seed.mean(axis=0))))
        difference = samples[0].losses.mean() - samples[1].losses.mean()
        bare = [Sample(each.losses) for each in samples]
        held += abs(difference) <= Contrast([samples[0]], samples[1]).half_width(one)
        without += abs(difference) <= Contrast([bare[0]], bare[1]).half_width(one)
    assert 0.95 - 3.3 * math.sqrt(0.05 * 0.95 / studies) <= held / studies <= 0.985
    assert without / studies < 0.7


def test_a_ladder_takes_the_windows_of_the_rungs_that_matter():
    noise = np.array([-1, 0, 1]) * 1e-3
    spots = 0.05 * np.random.default_rng(2).standard_normal(32)

    def ladder(taste):
        return Ladder(
            {n: Sample(2 + 9 * n**-0.35 + noise, (), parts(2 + 9 * n**-0.35 + taste)) for n in (500, 1000, 2000)}
        )

    new = Sample(2 + 9 * 1300**-0.35 + noise, (), parts(2 + 9 * 1300**-0.35 + spots))
    alike, unlike = (ladder(taste).reach(new, 1000) for taste in (spots, 0 * spots))
    assert alike.low is not None
    assert unlike.low is not None
    assert alike.value == unlike.value
    assert unlike.low < alike.low


def test_a_study_whose_runs_log_their_parts_has_a_wider_interval(tmp_path):
    spots = {"adamw": np.zeros(32), "soap": 0.05 * np.random.default_rng(3).standard_normal(32)}
    write_study(tmp_path, {"soap": 1.4}, noise=0.002)
    before = row(compared(tmp_path), "soap").speedup
    unknown = row(compared(tmp_path), "soap").notes
    for path in tmp_path.glob("*/manifest.json"):
        facts = json.loads(path.read_text())
        losses = 3 + spots["soap" if "soap" in path.parent.name else "adamw"]
        path.write_text(json.dumps(facts | {"validation": {"targets": [2048] * 32, "losses": losses.tolist()}}))
    after = row(compared(tmp_path), "soap")
    assert before.low is not None
    assert after.speedup.low is not None
    assert after.speedup.value == before.value
    assert after.speedup.low < before.low
    assert after.notes == unknown


def test_a_run_keeps_the_parts_of_its_last_evaluation(tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    keys = ["steps=2", "log.every=1", "eval.every=1", "run_dir=run", "batch.micro=2", "eval.tokens=5120"]
    assert in_process(*keys).code == 0
    kept = manifest(tmp_path / "run")["validation"]
    assert sum(kept["targets"]) == 5120
    mean = np.average(kept["losses"], weights=kept["targets"])
    assert mean == pytest.approx(rows(tmp_path / "run")[-1]["val/loss"], rel=1e-12)
    assert len(kept["losses"]) > 1
