"""bench_suite's optimizers: one by one, each in its own time, beside a whole step."""

import json

import pytest

from harness import origin
from scripts import bench_suite
from scripts.bench import drift
from scripts.suite import curves, exactness, updates
from scripts.suite import optimizers as suite_optimizers
from scripts.suite.folder import Deadline, Folder
from tests.test_bench_suite import BED

DRIFT = drift.Bed(layers=1, heads=2, width=32, context=16, sequences=2, updates=12, device="cpu")
TINY = ["--rehearse", "--minutes", "2", "--device", "cpu"]


def read(folder):
    return json.loads((folder / "optimizers.json").read_text())


def row_of(model, optimizer, implementation="halfstep", ms=2.0):
    return {"optimizer": optimizer, "implementation": implementation, "plain_ms": ms, "refresh_ms": None,
            "amortised_ms": ms, "ratio": {"median": 1.0, "low": 1.0, "high": 1.0}, "worst_over_mean": 1.0,
            "worst_ms": 3 * ms, "median_ms": ms, "rounds": 5, "floor_ms": ms / 4, "keywords": {}, "compiled": False,
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
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(exactness, "measure", lambda *_: 0)
    monkeypatch.setattr(updates, "measure", lambda *_: 0)
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
    assert "| 0.50 | 4.00 | 1.00 |  | not measured: run part train first |" in shown
    assert "- gpt2_pico, muon: did not end within 2 minutes" in shown
    assert "- gpt2_pico, lamb: halfstep: out of memory" in shown
    (tmp_path / "throughput.json").write_text(json.dumps({
        "identity": {"tokens": 1024, "context": 128, "vocabulary": 256, "dtype": "torch.float32",
                     "device": read(tmp_path)["identity"]["device"]},
        "rows": [{"model": "gpt2_pico", "system": "halfstep", "variant": "plain", "tokens_per_second": 10_240.0}],
    }))  # fmt: skip
    bench_suite.main(line)
    assert read(tmp_path)["rows"][0]["share_of_step"] == pytest.approx(0.002 / 0.1)


def test_beside_a_whole_step(tmp_path):
    """Hooks see every token of an update: what they cost on a pass counts for each of its passes."""
    (tmp_path / "throughput.json").write_text(json.dumps({
        "identity": {"tokens": 1024},
        "rows": [{"model": "gpt2_pico", "system": "halfstep", "variant": "plain", "tokens_per_second": 10_240.0}],
    }))  # fmt: skip
    about = {"model": "gpt2_pico", "way": {}, "commit": "abc"}
    rows = [{**row_of("gpt2_pico", "kfac", ms=10.0), **about, "hooks_ms_per_step": 1.0}]
    identity = {"context": 128, "vocabulary": 8, "device": "x"}
    book = {"identity": identity, "rows": rows, "failures": [], "drift": [], "curves": []}
    suite_optimizers.keep(book, Folder(tmp_path))
    (row,) = read(tmp_path)["rows"]
    assert row["hooks_ms_per_update"] == pytest.approx(8)
    assert row["share_of_step"] == pytest.approx(0.18)
    assert row["worst_over_median_step"] == pytest.approx(130 / 110)


def test_rounds_before_a_timeout_count_and_failures_of_another_commit_do_not(tmp_path, monkeypatch):
    def measure(plan, model, optimizer, way, seconds):
        asked.append(optimizer)
        if optimizer == "lion":
            raise suite_optimizers.Cut([row_of(model, optimizer)])
        raise ValueError("out of memory")

    asked: list[str] = []
    monkeypatch.setattr(suite_optimizers, "measure", measure)
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(exactness, "measure", lambda *_: 0)
    monkeypatch.setattr(updates, "measure", lambda *_: 0)
    for only, commit in (("lion", "one"), ("sgd", "one"), ("lion,sgd", "one"), ("lion,sgd", "two")):
        plan = suite_optimizers.Plan(["gpt2_pico"], only.split(","), 8, 8, 8, 0.1, 1, [], "cpu", commit, DRIFT, BED)
        assert suite_optimizers.run(plan, Folder(tmp_path), Deadline(9), print) == 0
    assert asked == ["lion", "sgd", "sgd"]
    assert [row["optimizer"] for row in read(tmp_path)["rows"]] == ["lion"]
    assert [each["commit"] for each in read(tmp_path)["failures"]] == ["two"]


def test_ways_that_need_cuda_are_left_out_on_a_cpu():
    for device, expected in (("cpu", False), ("cuda", True)):
        units = suite_optimizers.Plan(["gpt2_pico"], ["soap"], 8, 8, 8, 0.1, 1, [], device, None, DRIFT, BED).units()
        assert units[0]["way"] == {}
        assert any("triton" in unit["way"].values() for unit in units) is expected


def test_drift_of_quick_ways_from_float64():
    ways = [{}, {"qr": "cholesky"}, {"projection_dtype": "bfloat16"}]
    plain, cholesky, coarse = drift.drift(DRIFT, "soap", {}, ways)
    assert 0 < plain["drift"] <= plain["largest"] < coarse["largest"]
    assert cholesky["largest"] < 2 * plain["largest"]
    assert all(row["skew"] < 1e-5 for row in (plain, cholesky, coarse))
    both = [{"ns_dtype": "float64"}, {"ns_dtype": "float32"}]
    exact, single = drift.drift(DRIFT, "muon", {"ns_dtype": "float64"}, both)
    assert exact["largest"] < 1e-5  # the state is in float32 all the same
    assert exact["skew"] is None
    assert single["largest"] < 1e-2


def test_a_skewed_basis_is_told():
    model, optimizer = drift._made(DRIFT, "soap", drift.torch.float32, {})
    model(*DRIFT.batch(0, drift.np.arange(99, dtype="u1"))).backward()
    optimizer.step(drift.Given())
    basis = next(s["left_basis"] for s in optimizer.state.values() if "left_basis" in s)
    basis[:, 0] *= 1.01
    assert drift.skewness(optimizer) == pytest.approx(0.0201, rel=1e-3)


def test_drift_is_measured_once_and_what_breaks_is_a_row(monkeypatch):
    class Here:
        def __init__(self, make):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, seconds, function, bed, name, exact, quick):
            asked.append(name)
            if quick == [{"ns_dtype": "bfloat16"}]:
                raise ValueError("RuntimeError: it cannot")
            lost = float("nan") if name == "shampoo" else 1e-3
            row = {"optimizer": name, "updates": 9, "drift": lost, "largest": 1.0, "skew": None}
            return [{**row, "way": way} for way in quick]

    asked: list[str] = []
    monkeypatch.setattr(exactness, "Side", Here)
    book: dict = {"drift": []}
    assert exactness.measure(DRIFT, [], book, Deadline(0.1), 0, print) == 6  # no time
    assert exactness.measure(DRIFT, [], book, Deadline(9), 0, print) == 0
    assert exactness.measure(DRIFT, [], book, Deadline(9), 0, print) == 0
    assert asked == ["soap", "soap", "soap", "shampoo", "muon", "muon"]
    json.dumps(book, allow_nan=False)
    shown = exactness.table(book["drift"])
    assert "| soap qr=cholesky | 9 | 1.0e-03 | 1.0e+00 |" in shown
    assert "tf32" not in shown
    assert "| muon ns_dtype=float32 | 9 | 1.0e-03 |" in shown
    assert "| muon ns_dtype=bfloat16 |  |  |  |  | RuntimeError: it cannot |" in shown
    assert "| shampoo | 9 |  | 1.0e+00 |  | not finite: drift |" in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--part", "optimizers", "--rounds", "-1"], "--rounds must be above 0, not -1"),
        (["--part", "train", "--rounds", "0"], "--rounds must be above 0, not 0"),
        (["--part", "optimizers", "--context", "-1"], "--context must be above 0, not -1"),
        (["--part", "optimizers", "--minutes", "nan"], "--minutes must be above 0, not nan"),
        (["--part", "train", "--tokens", "0"], "--tokens must be above 0, not 0"),
        (["--part", "optimizers", "--vocabulary", "0"], "--vocabulary must be at least 256"),
        (["--part", "optimizers", "--reference", "soap=nowhere"], "nowhere is no checkout of it"),
        (["--part", "optimizers", "--only", "lion", "--reference", "kfac=here"], "--reference kfac"),
        (["--part", "optimizers", "--tokens", "512"], "--tokens is of the part train alone"),
        (["--part", "claims", "--rounds", "3"], "--rounds is of the parts train and optimizers alone"),
        (["--part", "train", "--only", "soap"], "--only is of the parts optimizers and claims alone"),
    ],
)
def test_bad_input_leaves_no_failure_behind(given, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        bench_suite.main([*TINY, "--output", str(tmp_path / "new"), *given])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_copy_without_git_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "run_folder.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("HALFSTEP_COMMIT", raising=False)
    assert origin.git_state() == {"commit": None, "dirty": None}
    monkeypatch.setenv("HALFSTEP_COMMIT", "abc")
    assert origin.git_state() == {"commit": "abc", "dirty": None}
