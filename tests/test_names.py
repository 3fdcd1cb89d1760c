"""Names, paths and counts on the command line: a name is a name whatever it looks like, and `~` is a home."""

import json
import os
import subprocess
import sys

import pytest

from conventions.keywords import bind
from harness.command_line import composed
from harness.config import config_hash, parse, whole_numbers
from harness.schedule import build_schedule
from harness.words import readable
from tests.cases import quick_cases
from tests.command import ROOT, complaint, in_process, manifest, rows

TWO = ("steps=2", "log.every=2", "eval.every=2")


@pytest.mark.parametrize("name", ["1", "2024_01_15", "1e3", "null_", "true", "-", "é", "it's", "a\\", "a b", "007"])
def test_a_name_is_a_name(name):
    config = composed([f"study={name}", f"run_dir={name}", f"data.dir={name}"])
    assert (config["study"], config["run_dir"], config["data"]["dir"]) == (name, name, name)
    parse(config)


@pytest.mark.parametrize(
    "path", ["~/x", "$HOME/x", "${HOME}/x", "é.txt", "a=b.txt", "@x", "*.jsonl", "caf\udce9.txt", "a[b"]
)
def test_a_path_is_taken_as_it_is_typed(path):
    (text,) = {composed([f"{key}={path}", "data=local"])["data"]["files"] for key in ("data.files",)}
    assert text == path.replace("{", "").replace("}", "")


def test_lists_sweeps_and_interpolations_stay_hydras():
    kept = ["data.files=[a,b]", "tracker.tags=[a]",
            "study='x'", "study=a,b", "study=${seed}", "study=null", "seed=1,2", "data.train=glob(*)",
            r"run_dir=a/$\{seed\}", r"run_dir=a\ b/c", "study=", "optimizer.betas=[0.9,", "experiment=a/b"]  # fmt: skip
    assert [word.removeprefix("++") for word in readable(kept)] == kept
    assert readable(["study=1,2024_01_15"], sweep=True) == ["study='1','2024_01_15'"]


def test_a_home_and_a_variable_in_run_dir(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.setenv("SCRATCH", str(here / "scratch"))
    for run_dir, folder in {"~/x": "home/x", "$SCRATCH/y": "scratch/y", "${SCRATCH}/z": "scratch/z"}.items():
        assert in_process(*TWO, f"run_dir={run_dir}").code == 0
        assert manifest(here / folder)["status"] == "finished"
    assert "the environment variable NOWHERE is not set" in complaint(in_process("run_dir=$NOWHERE/x"))
    assert not list(here.glob("*[~$]*"))


STUDIES = ("..", ".", "../../../escape", "a/b", "/tmp/a")


@pytest.mark.parametrize("study", quick_cases(STUDIES, {"../../../escape", "/tmp/a"}))
def test_a_study_lies_in_its_folder_and_nowhere_else(here, study):
    for sweep in ((), ("-m", "seed=0,1")):
        assert "study must be the name of a folder" in complaint(in_process(*sweep, f"study={study}"))
    assert not list(here.parent.rglob("*escape*"))
    assert not list(here.rglob("*.yaml"))


def test_counts_may_be_written_as_people_write_them(here):
    assert in_process("steps=2.0", "batch.tokens=1.024e3", "eval.every=2e0", "log.every=2", "run_dir=x").code == 0
    assert [row["tokens"] for row in rows(here / "x")] == [0, 2048]
    assert json.loads((here / "x" / "manifest.json").read_text())["tokens_per_step"] == 1024
    assert "steps: 2\n" in (here / "x" / "config.yaml").read_text()
    values = composed(["steps=1e5"])
    assert config_hash(values) == config_hash(whole_numbers(values, parse(values)))
    assert "steps must be an integer, not 10.5" in complaint(in_process("steps=10.5"))


def test_one_and_one_point_nought_of_warm_up():
    def schedule(warmup):
        return build_schedule(
            8, **bind(build_schedule, {"kind": "linear", "warmup": warmup, "final": 0.0}, "", ["steps"])
        )

    assert schedule(1)(0) == 0.5
    assert schedule(0.5)(0) == 0.2
    with pytest.raises(ValueError, match=r"1.0 could be either, write 1 for one"):
        schedule(1.0)


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("dtype", "bf16", "bfloat16"), ("dtype", "fp32", "float32"), ("device", "gpu", "cuda"),
        ("tracker.mode", "dryrun", "offline"), ("schedule.kind", "cosin", "cosine"), ("compile", "Auto", "auto"),
    ],
)  # fmt: skip
def test_the_nearest_right_value_is_named(here, key, wrong, right):
    more = ["tracker=wandb"] if key.startswith("tracker") else []
    assert complaint(in_process(*more, f"{key}={wrong}")).endswith(f"did you mean {right}?")


def test_what_other_tools_have_is_answered_with_what_we_have(here):
    assert "python -m scripts.tune tries values in ranges" in complaint(in_process("-m", "optimizer.lr=interval(0,1)"))
    assert "hydra/launcher=joblib is not there: launcher=serial, local and" in complaint(
        in_process("hydra/launcher=joblib")
    )


@pytest.mark.parametrize(
    ("encoding", "text"), [("ascii", b"... x +/- e caf\xe9 ?"), ("latin-1", b"... \xd7 \xb1 \xe9 caf\xe9 ?")]
)
def test_a_terminal_that_lacks_a_character_gets_the_nearest(encoding, text):
    assert "\u2026 \xd7 \xb1 \xe9 caf\udce9 \u4e2d".encode(encoding, "halfstep") == text


def test_every_program_prints_in_an_ascii_terminal(here):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "import conventions.sentence; print('\\u2026 \\xd7 \\xb1 \\xe9 caf\\udce9 \\u4e2d')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"... x +/- e caf\xe9 ?\n")


def test_empty_variables_count_as_unset(here, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "HALFSTEP_DATA"):
        monkeypatch.setenv(name, "")
    ended = in_process("tracker=wandb", "--cfg", "job", "--resolve")
    assert "mode: online" in ended.out
    assert "project: halfstep" in ended.out
    assert "dir: ~/.cache/halfstep" in ended.out
