"""The demo: its probe's arithmetic, a probe of real runs, and what it shows of runs that are there already."""

import shutil

import pytest

from harness.sweep.probe import probe, remaining, span
from scripts import demo
from tests.command import ROOT


def test_what_is_left_of_a_run_counts_updates_and_evaluations():
    rows = [
        {"step": 0, "seconds/total": 0.0, "seconds/evaluate": 0.5},
        {"step": 10, "seconds/total": 3.0},  # the first updates are slow, and not counted
        {"step": 20, "seconds/total": 4.0, "seconds/evaluate": 1.0},
    ]
    assert remaining(rows, 2000, 100) == pytest.approx(1980 * 0.1 + 19 * 0.5)


@pytest.mark.parametrize(("places", "seconds"), [(1, 21.0), (2, 12.0), (6, 6.0), (9, 6.0)])
def test_runs_side_by_side_take_as_long_as_the_busiest_place(places, seconds):
    assert span([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], places) == seconds


def test_finished_runs_are_shown_and_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "results" / "demo_of_six", tmp_path / "results" / "demo")
    monkeypatch.setattr(demo, "Process", None)
    demo.main([])
    shown = capsys.readouterr().out
    assert "soap led" in shown
    assert "probe" not in shown
    assert "A race against adamw" in (tmp_path / "results" / "demo" / "report.html").read_text()


@pytest.mark.slow
def test_a_probe_of_real_runs(here):
    sweep = [*demo.SWEEP, "experiment=demo_adamw,demo_soap"]
    long, short = (probe(sweep, {"steps": n, "eval": {"every": n}}) for n in (10**6, 100))
    assert long > short > 0
    assert not list(here.glob("results/*"))
