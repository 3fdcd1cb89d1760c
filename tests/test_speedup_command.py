"""The command that prints a comparison: its tables, its JSON, and what it says of bad input."""

import json
import os
import re
import subprocess
import sys

import pytest

from scripts.speedup import main
from tests.refusal import refusal
from tests.study import compared, row, write_run, write_study


def test_the_command_prints_a_table(tmp_path, capsys):
    main([str(write_study(tmp_path, {"soap": 1.3, "muon": 3.0}, noise=0.001, config={"grad_clip": 0.5}))])
    shown = capsys.readouterr().out
    comparison = compared(tmp_path)
    assert f"{comparison.standings[2].loss:.4f}" in shown
    assert str(row(comparison, "soap").speedup) in shown
    assert row(comparison, "soap").speedup.interval in shown
    assert ">2" in shown
    assert "faster" in shown


def test_a_race_says_once_what_a_verdict_takes(tmp_path, capsys):
    main([str(write_study(tmp_path, {"soap": 1.3, "lion": 0.7}, ladder=(2000,), seeds=1))])
    shown = capsys.readouterr().out
    comparison = compared(tmp_path)
    assert [line.split()[0] for line in shown.splitlines() if line.startswith((" soap", " adamw", " lion"))] == [
        "soap", "adamw", "lion",
    ]  # fmt: skip
    assert f"soap led: it reached adamw's final loss, {comparison.target:.4f}, after" in shown
    assert "underpowered" not in shown
    assert " ".join(shown.split()).count("A verdict takes 3 seeds") == 1


def test_what_is_declared_is_shown_with_its_source(tmp_path, capsys):
    study = write_study(tmp_path, {"lion": 1.25}, ladder=(2500,), seeds=1)
    declared = ["--sigma", ".001", "--sigma-from", "a pool of runs", "--slope", ".2", "--slope-from", "a law"]
    main([str(study), *declared])
    shown = " ".join(capsys.readouterr().out.split())
    assert "isoloss 1.25" in shown
    assert "0.001 nats, declared (a pool of runs)" in shown
    assert "0.2 nats for twice the length (0.133 to 0.3; a law)" in shown
    assert "after 2,000 updates" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sigma", ".001"], "--sigma-from"),
        (["--slope", ".2"], "--slope-from"),
        (["--slope", "steep"], "--slope is 'steep'"),
        (["--sigma", "0", "--sigma-from", "x"], "a declared sigma is above 0"),
    ],
)
def test_a_declaration_without_its_source_is_one_sentence(tmp_path, capsys, arguments, sentence):
    study = write_study(tmp_path, {"lion": 1.25}, ladder=(2500,), seeds=1)
    assert sentence in refusal(capsys, main, str(study), *arguments)


def run_command(*arguments):
    return subprocess.run([sys.executable, "-m", "scripts.speedup", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_long_name_is_folded_and_never_cut(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setattr("conventions.terminal_table.WIDE", columns)
    path = "a_package_of_optimizers.with_a_long_path.Optimizer"
    write_study(tmp_path, {"soap": 1.3}, noise=0.001)
    for seed in range(3):
        write_run(tmp_path, "external", 2000, seed, 1.2, noise=0.001, config={"optimizer._target_": path})
    main([str(tmp_path)])
    for table in capsys.readouterr().out.split("Speed-up over"):
        lines = [line.strip() for line in table.splitlines()]
        assert path in "".join(line.split(" ")[0] for line in lines)
        assert not any("…" in line.split(" ")[0] for line in lines)


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_leaves_is_no_error(tmp_path, options):
    write_study(tmp_path, {"soap": 1.3}, seeds=1)
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "scripts.speedup", str(tmp_path), *options]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


def test_json_is_all_that_is_printed(tmp_path):
    write_study(tmp_path, {"soap": 1.3, "muon": 3.0}, noise=0.001)
    write_run(tmp_path, "lion", 2000, 0, 0.9, flops_per_step=None, config={"grad_clip": None})
    done = run_command(str(tmp_path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert len(rows) == 3 * 3 * 3
    keys = [
        "optimizer",
        "rule",
        "axis",
        "speedup",
        "low",
        "high",
        "censored",
        "seeds",
        "verdict",
        "length",
        "arm",
        "survives",
        "notes",
    ]
    assert all(list(each) == keys for each in rows)
    comparison = compared(tmp_path)
    for each, expected in zip(rows, comparison.rows, strict=True):
        assert each == json.loads(json.dumps(expected.json()))
    (beyond,) = [r for r in rows if (r["optimizer"], r["rule"], r["axis"]) == ("muon", "matched", "steps")]
    assert (beyond["speedup"], beyond["low"], beyond["high"], beyond["censored"]) == (2.0, 2.0, None, "above")


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    empty, study = tmp_path / "empty", write_study(tmp_path / "study", {"soap": 1.3}, seeds=1)
    empty.mkdir()
    alone = write_study(tmp_path / "alone", {}, seeds=1)
    for arguments, expected in {
        (str(empty),): "holds no run",
        (str(study), "--baseline", "adam"): "'adam' in this folder: did you mean adamw?",
        (str(study), "--baseline", "qqq"): "choose from adamw, soap",
        (str(alone),): "holds no optimizer but adamw",
    }.items():
        assert expected in refusal(capsys, main, *arguments)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nan", "a target is a validation loss above 0, in nats per token, not nan"),
        ("-1", "a target is a validation loss above 0, in nats per token, not -1"),
        ("20", r"a target of 20 is above the loss with which the baseline begins \(\d+\.\d{4}\): give less"),
    ],
)
def test_a_target_that_says_nothing_is_refused(tmp_path, capsys, target, why):
    study = write_study(tmp_path, {"soap": 1.3}, ladder=(2000,), seeds=1)
    assert re.fullmatch(why, refusal(capsys, main, str(study), "--target", target))


def test_the_folder_of_a_command_is_expanded_as_a_shell_does_it(tmp_path, capsys, monkeypatch):
    write_study(tmp_path / "mine", {"soap": 1.3}, ladder=(2000,), seeds=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NOT_SET", raising=False)
    for folder in ("~/mine", "$HOME/mine"):
        main([folder])
    assert capsys.readouterr().out.count("soap led") == 2
    with pytest.raises(SystemExit, match="2"):
        main(["$NOT_SET/mine"])
    assert "argument folder: $NOT_SET/mine: the environment variable NOT_SET is not set" in capsys.readouterr().err
