"""The sentences of a report name what they are about: an axis, an arm, the tuning."""

from dataclasses import replace

import pytest

from conventions.grid import Grid, markdown
from conventions.terminal_table import table_text, terminal_table
from judge.answer import missing, verdict
from judge.comparison_tables import speedups_grid
from judge.tuning.search import Range
from judge.tuning.trials import tuning_of, with_tuning, write_plan
from scripts.pages.figures import curves
from scripts.report import render
from tests.study import compared, write_run, write_study

CPU = {"manifest": {"device.type": "cpu", "device.name": "a CPU"}}


@pytest.mark.parametrize(("how", "where"), [({}, ""), (CPU, " in steps and FLOPs")])
def test_a_verdict_names_its_axes_unless_they_are_all(tmp_path, how, where):
    comparison = compared(write_study(tmp_path, {"lion": 1.5}, noise=0.002, **how))
    assert verdict(comparison, comparison.standings[1])["words"] == {"faster": where}


def test_a_divergence_has_no_axis(tmp_path):
    write_study(tmp_path, {"lion": 1.5}, noise=0.002, **CPU)
    write_run(tmp_path, "lion", 2000, 7, until=100, status="diverged", **CPU)
    comparison = compared(tmp_path)
    assert verdict(comparison, comparison.standings[1])["words"] == {"diverged": ""}


def lacking(comparison):
    return missing(comparison, {each.arm.label: each.optimizer for each in comparison.standings})


def test_who_lacks_seeds_is_named_unless_all_do(tmp_path):
    write_study(tmp_path / "all", {"lion": 1.5, "soap": 1.3}, seeds=2)
    assert lacking(compared(tmp_path / "all")) == "A verdict takes three seeds of each run."
    write_study(tmp_path / "one", {"lion": 1.5})
    write_run(tmp_path / "one", "soap", 2000, 0, 1.3)
    assert lacking(compared(tmp_path / "one")) == "A verdict takes three seeds of each run, which soap lacks."
    write_run(tmp_path / "one", "muon", 2000, 0, 1.3)
    assert "which muon and soap lack." in lacking(compared(tmp_path / "one"))


def test_warnings_of_the_tuning_alone_have_a_title_of_their_own(tmp_path, undrawn):
    study = write_study(tmp_path / "mine", {"lion": 1.3}, ladder=(2000,), seeds=1)
    for optimizer, count in {"adamw": 1, "lion": 2}.items():
        folder = tmp_path / "mine-tuning" / optimizer
        for number in range(count):
            write_run(folder, optimizer, 1000, 1000, config={"optimizer.lr": 1e-3 * (1 + number)})
        write_plan(folder, optimizer, 2000, {"optimizer.lr": Range(1e-4, 1e-1)})
    page = render(with_tuning(compared(study), tuning_of(study)))
    assert "<h2>Mind how they were tuned</h2>" in page
    assert "not alike" not in page
    write_run(study, "lion", 2000, 1, 1.3)
    assert "<h2>These runs are not alike</h2>" in render(with_tuning(compared(study), tuning_of(study)))


def test_the_whole_band_of_the_seeds_is_drawn(tmp_path):
    comparison = compared(write_study(tmp_path, {"lion": 1.3}, noise=0.3))
    low, high = curves(comparison, "steps").figure.axes[0].get_ylim()
    finals = [run.final_loss for run in comparison.runs if run.steps == comparison.length]
    assert low < min(finals)
    tenth = [point.loss for run in comparison.runs for point in run.points if run.steps == 2000 and point.steps == 200]
    assert max(tenth) < high


def test_every_page_words_a_verdict_alike(tmp_path, undrawn):
    """A dagger stands wherever the verdict does, for the note beside it says what it marks."""
    study = write_study(tmp_path / "study", {"lion": 1.04, "soap": 1.5, "muon": 1.0}, noise=0.002)
    comparison = compared(study)
    rows = [replace(row, survives=False if row.verdict == "faster" else None) for row in comparison.rows]
    comparison = replace(comparison, rows=rows)
    (soap,) = [row for row in rows if (row.optimizer, row.rule, row.axis) == ("soap", "matched", "steps")]
    assert soap.words == "faster †"
    cell = f"{soap.speedup} ({soap.speedup.interval}) faster †"
    assert cell in markdown(speedups_grid(comparison))
    cells = [cell for line in speedups_grid(comparison, lines=True).rows for cell in line]
    assert f"{soap.speedup}\n{soap.speedup.interval}\nfaster †" in cells
    each = next(each for each in comparison.standings if each.optimizer == "soap")
    assert verdict(comparison, each)["words"] == {"faster †": ""}
    assert "faster †" in render(comparison)


def test_a_terminal_shows_a_grid_as_wide_as_it_is(monkeypatch):
    rows = [["a" * 40, "1,234,567", "so it is"], [], ["b", "2\n1 to 3\nfaster †", ""]]
    grid = Grid("A title", ["name", "number", "words"], rows)
    wide = table_text(grid, ("words",)).splitlines()
    assert f" {'a' * 40}  1,234,567  so it is" in wide
    assert [line.split() for line in wide[-3:]] == [["b", "2"], ["1", "to", "3"], ["faster", "†"]]
    monkeypatch.setattr("conventions.terminal_table.WIDE", 44)
    narrow = table_text(grid, ("words",)).splitlines()
    assert max(map(len, narrow)) <= 44
    assert sum(word.count("a") for line in narrow for word in line.split()[:1] if set(word) == {"a"}) == 40  # not cut
    assert any("1,234,567" in line for line in narrow)
    colored = terminal_table(grid, colors={"faster": "green"}).columns[1]
    assert [span.style for span in list(colored.cells)[-1].spans if span.style] == ["dim", "green"]


def test_the_name_of_a_part_is_a_row_of_one_cell():
    rows = [[], ["a part of the study"], ["short", "1"]]
    lines = table_text(Grid("", ["arm", "runs"], rows)).splitlines()
    assert [line.split() for line in lines if "short" in line] == [["short", "1"]]
    assert any(line.split() == ["a", "part", "of", "the", "study"] for line in lines)
