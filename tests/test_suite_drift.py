"""bench_suite's drift from float64: what it measures, and what becomes of a way that breaks or takes too long."""

import pytest

from scripts.bench import drift
from scripts.suite import curves, exactness, steps
from scripts.suite import optimizers as suite_optimizers
from scripts.suite.folder import Deadline, Folder
from tests.test_suite_optimizers import DRIFT, plan_of


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
    model(*DRIFT.batch(0, drift.np.arange(99, dtype="u1"))).mean.backward()
    drift.step_along(optimizer, model)
    basis = next(s["left_basis"] for s in optimizer.state.values() if "left_basis" in s)
    basis[:, 0] *= 1.01
    assert drift.skewness(optimizer) == pytest.approx(0.0201, rel=1e-3)


def test_drift_is_measured_once_and_what_breaks_is_a_row(tmp_path, monkeypatch):
    class Here:
        def __init__(self, make):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, seconds, function, bed, name, exact, quick):
            asked.append(name)
            if name == "shampoo" and asked.count(name) < 3:
                raise TimeoutError
            if quick == [{"ns_dtype": "bfloat16"}]:
                raise ValueError("RuntimeError: it cannot")
            lost = float("nan") if quick == [{"ns_dtype": "float32"}] else 1e-3
            row = {"optimizer": name, "updates": 9, "drift": lost, "largest": 1.0, "skew": None}
            return [{**row, "way": way} for way in quick]

    asked: list[str] = []
    monkeypatch.setattr(exactness, "Side", Here)
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(curves, "left", lambda *_: 0)
    monkeypatch.setattr(steps, "done", lambda *_: True)
    for number, names in enumerate((["soap", "soap", "shampoo", "muon", "muon"], ["shampoo"], [])):
        plan = plan_of("soap,shampoo,muon", "abc")
        assert suite_optimizers.run(plan, Folder(tmp_path), Deadline(9), print) == (number == 0)
        assert asked == names  # what has a whole call and does not end in it never will
        asked.clear()
    shown = (tmp_path / "optimizers.md").read_text()
    assert "| soap stagger=true projection_dtype=bfloat16 | 9 | 1.0e-03 | 1.0e+00 |" in shown
    assert "tf32" not in shown
    assert "| muon ns_dtype=float32 | 9 |  | 1.0e+00 |  | not finite: drift |" in shown
    assert "| muon ns_dtype=bfloat16 |  |  |  |  | RuntimeError: it cannot |" in shown
    assert "| shampoo |  |  |  |  | did not end within 9 minutes |" in shown
