"""The figures of a study as files: each for what the runs have, with a legend, and the same bytes every time."""

import hashlib
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from judge.comparison import compare
from judge.records import find_runs
from judge.tuning.search import Range
from judge.tuning.trials import tuning_of, write_plan
from scripts.pages.bars import shares
from scripts.pages.figures import FINEST, SCALES, thinned
from scripts.plot import drawn, main
from tests.refusal import refusal
from tests.study import write_run, write_study

ALL = [
    "curves-steps-linear", "curves-flops-linear", "curves-seconds-linear", "ladder", "learning-rates", "tuning",
    "parts-seconds", "parts-flops", "outside", "memory-state_per_parameter", "memory-peak", "shares",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("plot") / "study", {"soap": 1.3}, seeds=1)
    write_run(folder, "soap", 2000, 0, 1.1, config={"optimizer.lr": 3e-3})
    trials = folder.with_name("study-tuning") / "soap"
    write_plan(trials, "soap", 2000, {"optimizer.lr": Range(1e-4, 1e-1)})
    for rate in (3e-4, 3e-3):
        write_run(trials, "soap", 1000, 1000, config={"optimizer.lr": rate})
    return folder


def test_there_is_a_file_for_each_figure(study, tmp_path, capsys):
    main([str(study), "--output", str(tmp_path / "new" / "figures")])
    files = [tmp_path / "new" / "figures" / f"{name}.svg" for name in ALL]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(files)
    for file in files:
        source = file.read_text()
        assert source.startswith("<?xml")
        assert "<text" not in source  # letters are shapes
        assert not re.search(r"20\d\d-\d\d-\d\d|<dc:|Matplotlib v", source)


def test_runs_without_a_ladder_or_tuning_have_fewer_figures(tmp_path):
    write_study(tmp_path, {"lion": 0.9}, ladder=(2000,), seeds=1, flops_per_step=None)
    names = [drawing.name for drawing in drawn(compare(find_runs(tmp_path), "adamw"), {}, "log-log")]
    assert names[:2] == ["curves-steps-log-log", "curves-seconds-log-log"]
    assert not {"ladder", "learning-rates", "tuning", "parts-flops"} & set(names)


def test_a_figure_that_stands_alone_names_its_lines(study, tmp_path):
    drawings = drawn(compare(find_runs(study), "adamw"), tuning_of(study))
    for drawing in drawings:
        drawing.save(tmp_path / "figure.svg")
        expected = {text.get_text() for legend in drawing.figure.legends for text in legend.get_texts()}
        if drawing.name.startswith("curves"):
            assert expected == {"adamw", "soap"}
        if drawing.name == "parts-seconds":
            assert expected == {"data", "gradient", "curvature", "optimizer"}
        if drawing.name == "tuning":
            assert expected == {"soap"}


def digests(study: Path, folder: Path) -> dict[str, str]:
    """Return the digests of every figure's SVG, and of one figure in each format."""
    result = {}
    for drawing in drawn(compare(find_runs(study), "adamw"), tuning_of(study)):
        for kind in ("svg", "pdf", "png") if drawing.name == "ladder" else ("svg",):
            path = folder / f"{drawing.name}.{kind}"
            drawing.save(path)
            result[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_in_another_process(study, tmp_path):
    program = (
        "import json, pathlib, sys; from tests.test_plot import digests; "
        "print(json.dumps(digests(*map(pathlib.Path, sys.argv[1:]))))"
    )
    command = [sys.executable, "-c", program, str(study), str(tmp_path)]
    there = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert there == digests(study, tmp_path)
    assert len(there) == len(ALL) + 2


def test_an_update_that_moved_nothing_has_no_share_in_what_updates_consist_of(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, ladder=(2000,), seeds=1)
    (run,) = tmp_path.glob("*soap*")
    first, *rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first |= {key: 0.0 for key in first if key.startswith("update/share_")}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (first, *rows)))
    drawing, colors = shares(compare(find_runs(tmp_path), "adamw"))
    assert list(colors) == ["wte", "c_attn", "vectors"]
    widths = [patch.get_width() for patch in drawing.figure.axes[0].patches]
    assert widths == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.3, 0.3])


def test_each_of_the_kinds_of_layers_of_a_bert_has_a_color_of_its_own(tmp_path):
    write_study(tmp_path, {"soap": 1.3}, ladder=(2000,), seeds=1)
    for run in tmp_path.glob("*"):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [{key: each for key, each in row.items() if not key.startswith("update/share_")} for row in rows]
        made = [row | {f"update/share_{kind}": 1 / 13 for kind in "abcdefghijklm"} for row in kept]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    _, colors = shares(compare(find_runs(tmp_path), "adamw"))
    assert len(set(colors.values())) == len(colors) == 13


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_long_curves_are_thinned_to_what_can_be_seen(scale):
    points = list(range(7, 5007))
    kept = thinned(points, scale)
    assert FINEST / 2 < len(kept) <= FINEST
    assert (kept[0], kept[-1]) == (7, 5006)
    assert kept == sorted(set(kept))
    gaps = [after - before for before, after in pairwise(kept)]
    assert max(gaps) <= (5000 / FINEST + 2 if scale == "linear" else 5000 * 0.04)
    assert thinned(points[:FINEST], scale) == points[:FINEST]


def test_what_cannot_be_drawn_is_said_in_a_sentence(tmp_path, capsys):
    write_run(tmp_path / "study", "adamw", until=0, status="failed")
    sentence = refusal(capsys, main, str(tmp_path / "study"), "--output", str(tmp_path / "figures"))
    assert "has no finished run of adamw to draw" in sentence
    assert not (tmp_path / "figures").exists()


@pytest.mark.filterwarnings("error")  # a library's warning is nothing that a reader of a page can act on
@pytest.mark.parametrize("keys", [["seconds/total", "flops/total"], ["val/loss"]])
def test_one_point_or_one_value_draws_without_a_warning(tmp_path, keys):
    for optimizer in ("adamw", "lion"):
        folder = write_run(tmp_path, optimizer, steps=10)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(row | dict.fromkeys(keys, 2.5 if keys == ["val/loss"] else 0)) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
    comparison = compare(find_runs(tmp_path), "adamw")
    names = {drawing.name for scale in SCALES for drawing in drawn(comparison, {}, scale)}
    assert ("curves-seconds-linear" in names) == (keys == ["val/loss"])
