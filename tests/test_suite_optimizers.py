"""bench_suite's optimizers: one by one, each in its own time, beside a whole step."""

import json

import pytest

from scripts import bench_suite
from scripts.suite import optimizers as suite_optimizers

TINY = ["--rehearse", "--minutes", "2", "--device", "cpu"]


def read(folder):
    return json.loads((folder / "optimizers.json").read_text())


def row_of(model, optimizer, implementation="halfstep", ms=2.0):
    return {"optimizer": optimizer, "implementation": implementation, "plain_ms": ms, "refresh_ms": None,
            "amortised_ms": ms, "ratio": {"median": 1.0, "low": 1.0, "high": 1.0}, "worst_over_mean": 1.0,
            "state_bytes_per_parameter": 8.0, "hooks_ms_per_step": None}  # fmt: skip


def test_optimizers_one_by_one(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(plan, model, optimizer, way, seconds):
        asked.append((optimizer, way))
        if optimizer == "muon" or (optimizer == "sgd" and asked.count(("sgd", {})) == 1):
            raise TimeoutError
        if optimizer == "lamb":
            raise ValueError("halfstep: out of memory")
        return [row_of(model, optimizer)]

    monkeypatch.setattr(suite_optimizers, "measure", measure)
    line = ["--part", "optimizers", *TINY, "--output", str(tmp_path), "--only", "sgd,lion,lamb,muon"]
    bench_suite.main(line)  # muon takes the whole call
    assert asked == [("muon", {}), ("lion", {}), ("lamb", {}), ("sgd", {})]
    assert capsys.readouterr().out.strip().endswith("1 left: the same command goes on")
    bench_suite.main(line)
    assert asked[4:] == [("sgd", {})]  # in a call of its own it may take all of it: here it ends
    rows = read(tmp_path)["rows"]
    assert [row["optimizer"] for row in rows] == ["lion", "sgd"]
    assert rows[0]["share_of_step"] is None  # no step was measured
    shown = capsys.readouterr().out
    assert "- gpt2_pico, muon: did not end within 2 minutes" in shown
    assert "- gpt2_pico, lamb: halfstep: out of memory" in shown
    (tmp_path / "throughput.json").write_text(json.dumps({
        "identity": {"tokens": 1000},
        "rows": [{"model": "gpt2_pico", "system": "halfstep", "variant": "plain", "tokens_per_second": 10_000.0}],
    }))  # fmt: skip
    bench_suite.main(line)
    assert read(tmp_path)["rows"][0]["share_of_step"] == pytest.approx(0.002 / 0.1)


def test_ways_that_need_cuda_are_left_out_on_a_cpu():
    for device, expected in (("cpu", False), ("cuda", True)):
        units = suite_optimizers.Plan(["gpt2_pico"], ["soap"], 8, 8, 1, [], device, None).units()
        assert units[0]["way"] == {}
        assert any("triton" in unit["way"].values() for unit in units) is expected
