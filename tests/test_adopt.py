"""Foreign runs become run folders: what is known, what is not, and a judge that copes with what is not."""

import hashlib
import json

import pytest

from judge.comparison import compare
from judge.records import find_runs
from scripts import adopt
from tests.foreign import write_mlruns, write_text
from tests.refusal import refusal
from tests.study import law, write_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_log(path, steps, speedup=1.0, luck=0.0, stop=None):
    lines = []
    for step in range(0, (stop or steps) + 1, steps // 10):
        loss = law(steps, speedup) + luck + 0.002 * (steps - step)
        lines.append(f"step:{step}/{steps} val_loss:{loss:.5f} train_time:{step / 5:.3f}s step_avg:200.00ms\n")
    return write_text(path, "".join(lines))


def write_logs(place, seeds=3):
    for seed in range(seeds):
        for steps in (1000, 2000, 4000):
            write_log(place / "logs" / f"adamw-{steps}-s{seed}.log", steps, luck=0.001 * (seed - 1))
        write_log(place / "logs" / f"muon-2000-s{seed}.log", 2000, 1.4, luck=0.001 * (seed - 1))


ADOPTION = ("logs", "--study", "theirs", "--arm", "(adamw|muon)", "--seed", r"s(\d+)")


def adopted(*arguments):
    adopt.main([*ADOPTION, *arguments])
    return find_runs("results/runs/theirs")


def test_a_study_is_adopted_and_judged(place, capsys):
    write_logs(place)
    runs = adopted()
    assert len(runs) == 12
    [row] = [row for row in compare(runs, "adamw").rows if (row.rule, row.axis) == ("matched", "steps")]
    assert row.speedup.value == pytest.approx(1.4, abs=0.01)
    assert row.verdict == "faster"
    out = capsys.readouterr().out
    assert "12 runs in results/runs/theirs, 12 of them new" in out
    assert "unknown, and left so: batch.tokens, model, data, schedule, device, FLOPs" in out


def test_what_is_unknown_is_said_once(place):
    write_logs(place)
    notes = compare(adopted("--repository", "github:a/b"), "adamw").notes
    unknown = "batch.tokens, model, data, schedule, device, FLOPs"
    assert notes.count(f"trained elsewhere (github:a/b), and unknown of some or all: {unknown}") == 1
    assert not any("before the end of the schedule" in note for note in notes)


def test_runs_that_are_stated_early_are_said(place):
    for arm, speedup in (("adamw", 1.0), ("muon", 1.4)):
        write_log(place / "logs" / f"{arm}-3000-s0.log", 3000, speedup)
    notes = compare(adopted("--at", "1500"), "adamw").notes
    assert "2 runs are stated before the end of the schedule: not fully decayed" in notes


def test_an_unknown_device_gives_no_verdict_in_seconds(place):
    write_logs(place)
    [row] = [row for row in compare(adopted(), "adamw").rows if (row.rule, row.axis) == ("matched", "seconds")]
    assert row.verdict is None
    assert any("device" in note and "unknown" in note for note in row.notes)


def test_a_device_that_was_given_gives_one(place):
    write_logs(place)
    rows = compare(adopted("--device", "8x H100"), "adamw").rows
    [row] = [row for row in rows if (row.rule, row.axis) == ("matched", "seconds")]
    assert row.verdict == "faster"


def test_the_manifest_says_where_numbers_are_from_and_what_is_unknown(place):
    path = write_log(place / "logs" / "adamw-1000-s7.log", 1000)
    [run] = adopted("--repository", "github:a/b", "--commit", "abc", "--set", "batch.tokens=524288", "--weights", "EMA")
    assert run.config == {"steps": 1000, "seed": 7, "optimizer": {"name": "adamw"}, "batch": {"tokens": 524288}}
    origin = run.manifest["origin"]
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert origin["sources"] == [{"file": "logs/adamw-1000-s7.log", "sha256": checksum, "lines": [1, 11]}]
    assert (origin["format"], origin["repository"], origin["commit"]) == ("modded-nanogpt", "github:a/b", "abc")
    assert (origin["weights"], origin["planned_steps"]) == ("EMA", 1000)
    assert origin["unknown"] == ["model", "data", "schedule", "device", "FLOPs"]
    assert run.final_loss == pytest.approx(law(1000), abs=1e-5)
    assert run.last("flops/total") is None


def test_a_plan_writes_nothing(place, capsys):
    write_logs(place)
    adopt.main(["logs", "--study", "theirs", "--arm", "(adamw|muon)", "--plan"])
    assert not (place / "results").exists()
    out = capsys.readouterr().out
    assert "muon-2000-s2.log" in out
    assert "seed (numbered in order of names)" in out


def test_the_same_command_makes_the_same_folders_again(place, capsys):
    write_logs(place)
    adopted()
    before = {path: path.read_bytes() for path in (place / "results").rglob("*") if path.is_file()}
    adopted()
    assert before == {path: path.read_bytes() for path in (place / "results").rglob("*") if path.is_file()}
    assert "12 runs in results/runs/theirs, 0 of them new" in capsys.readouterr().out


def test_another_run_in_the_same_place_is_refused(place, capsys):
    write_log(place / "logs" / "adamw-1000-s0.log", 1000)
    adopted()
    write_log(place / "logs" / "adamw-1000-s0.log", 1000, luck=0.1)
    assert "would stand beside results/runs/theirs/adamw-T1000-s0" in refusal(
        capsys, adopt.main, *ADOPTION, silent=False
    )
    assert len(find_runs("results/runs/theirs")) == 1


def test_a_run_that_was_cut_off_is_no_result_unless_it_is_stated(place, capsys):
    write_log(place / "logs" / "adamw-1000-s0.log", 1000, stop=600)
    [run] = adopted()
    assert (run.status, run.final_loss, run.steps) == ("failed", None, 1000)
    assert "--at takes a run at a stated step" in run.manifest["error"]
    [stated] = [run for run in adopted("--at", "500") if run.steps == 500]
    assert (stated.status, stated.step) == ("finished", 500)
    [last] = [run for run in adopted("--at", "last") if run.steps == 600]
    assert last.final_loss == pytest.approx(law(1000) + 0.8, abs=1e-5)


def test_a_run_whose_source_calls_it_killed_is_no_result_unless_it_is_stated(place):
    store = write_mlruns(place / "logs" / "mlruns", "adamw-s3")
    [meta] = store.glob("*/*/meta.yaml")
    mapped = ["--map", "step=step,val/loss=val/loss"]
    meta.write_text(meta.read_text().replace("status: 3", "status: 5"))
    [run] = adopted(*mapped)
    assert (run.status, run.final_loss) == ("failed", None)
    assert run.manifest["error"].startswith("MLflow calls it KILLED: --at takes")
    [stated] = [run for run in adopted(*mapped, "--at", "100") if run.steps == 100]
    assert (stated.final_loss, stated.steps) == (5.1, 100)


def test_a_loss_that_is_not_finite_is_a_divergence(place):
    path = write_log(place / "logs" / "adamw-1000-s0.log", 1000)
    path.write_text(path.read_text() + "step:1000/1000 val_loss:nan train_time:200.000s step_avg:200.00ms\n")
    [run] = adopted()
    assert (run.status, run.final_loss) == ("diverged", None)
    assert "not finite at step 1000" in run.manifest["error"]


def test_facts_come_from_a_table_beside(place):
    for index in range(3):
        write_log(place / "logs" / f"run{index}.log", 1000, luck=index * 0.001)
    rows = ["id,method,seed,kept,gpu", "run0,Muon,4,yes,8x H100", "run1,Adam,5,yes,", "run2,Adam,6,no,"]
    write_text(place / "about.csv", "\n".join(rows) + "\n")
    facts = [
        "--about",
        "about.csv:id",
        "--where",
        "kept=yes",
        "--arm",
        "{method}",
        "--seed",
        "{seed}",
        "--device",
        "{gpu}",
    ]
    adopt.main(["logs", "--study", "theirs", *facts])
    runs = {run.optimizer: run for run in find_runs("results/runs/theirs")}
    assert {name: run.seed for name, run in runs.items()} == {"Muon": 4, "Adam": 5}
    assert runs["Muon"].known("device", "name") == "8x H100"
    assert runs["Adam"].known("device") is None
    assert [each["file"] for each in runs["Adam"].manifest["origin"]["sources"]] == ["logs/run1.log", "about.csv"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--arm", "lion"], "--arm lion is not in the name logs/adamw-1000-s0.log"),
        (["--arm", "("], "--arm ( is no regular expression"),
        (["--arm", "{optimiser}"], "nothing is known of 'optimiser'"),
        (["--seed", "(adamw)"], "the seed of logs/adamw-1000-s0.log is 'adamw', which is no whole number"),
        (["--seed", "=0"], "are both adamw of 1000 updates with seed 0: give patterns"),
        (["--at", "333"], "no validation loss at step 333"),
        (["--map", "step=stepp"], "has no column 'stepp' for step: did you mean step"),
        (["--set", "lr"], "--set lr: give KEY=VALUE"),
        (["--device", "{gpu}"], "nothing is known of {gpu} for any run"),
        (["--where", "file=x"], "no run is left to adopt"),
        (["--about", "nothing.csv:id"], "nothing.csv"),
    ],
)
def test_bad_input_is_one_sentence(place, capsys, arguments, sentence):
    for seed in (0, 1):
        write_log(place / "logs" / f"adamw-1000-s{seed}.log", 1000, luck=seed * 0.001)
    assert sentence in refusal(capsys, adopt.main, *ADOPTION, *arguments)
    assert not (place / "results").exists()


def test_our_runs_and_theirs_are_never_compared(place):
    write_logs(place)
    adopted()
    write_run(place / "results/runs/theirs", "muon", 2000, seed=9)
    with pytest.raises(ValueError, match=r"trained here and .* elsewhere: they are never compared"):
        compare(find_runs("results/runs/theirs"), "adamw")


@pytest.mark.parametrize(
    "inputs",
    [
        ["--set", "model=gpt2_124m"],
        *(pytest.param(each, marks=pytest.mark.slow) for each in ([], ["--set", "batch.tokens=1024"])),
    ],
)
def test_every_program_copes_with_what_is_unknown(place, capsys, undrawn, inputs):
    from scripts import plot, report, runs, speedup

    write_logs(place)
    adopted(*inputs)
    folder = "results/runs/theirs"
    speedup.main([folder])
    speedup.main([folder, "--json"])
    runs.main([folder])
    report.main([folder])
    plot.main([folder, "--output", "figures"])
    page = (place / folder / "report.html").read_text()
    top = page.partition("</header>")[0]
    assert "None" not in top
    assert "an unknown device" in top
    assert ("gpt2_124m" if "model=gpt2_124m" in inputs else "an unknown model") in top
    manifest = json.loads(next((place / folder).glob("*/manifest.json")).read_text())
    assert "origin" in manifest
