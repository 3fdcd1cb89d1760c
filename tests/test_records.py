import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from harness import origin
from harness.sweep.watch import RunReader
from judge.records import find_runs
from tests.study import law, write_run


def only(study: Path):
    (run,) = find_runs(study)
    return run


def append(folder: Path, text: str) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text)


def test_a_finished_run_reads_back(tmp_path):
    folder = write_run(tmp_path, "lion", steps=1000, seed=3, speedup=1.3)
    run = only(tmp_path)
    assert (run.folder, run.optimizer, run.seed, run.steps, run.status) == (folder, "lion", 3, 1000, "finished")
    assert run.final_loss == pytest.approx(law(1000, 1.3), abs=1e-12)
    assert run.points[0].steps == 0
    assert run.points[-1].flops == 1000 * 1e9
    assert run.known("device", "name") == "NVIDIA H100"
    assert run.known("device", "nothing", "deeper") is None


def test_runs_are_found_at_any_depth_and_only_where_a_manifest_is(tmp_path):
    write_run(tmp_path / "a" / "b", seed=1)
    write_run(tmp_path / "c", seed=2)
    stray = tmp_path / "c" / "stray"
    stray.mkdir()
    (stray / "metrics.jsonl").write_text("not json\n")
    assert [run.seed for run in find_runs(tmp_path)] == [1, 2]


def test_an_external_optimizer_goes_by_its_class_path(tmp_path):
    write_run(tmp_path, "external", config={"optimizer._target_": "torch.optim.RAdam"})
    assert only(tmp_path).optimizer == "torch.optim.RAdam"


def test_a_torn_last_line_is_ignored(tmp_path):
    folder = write_run(tmp_path, until=500, status="running")
    whole = only(tmp_path).rows
    append(folder, '{"schema": 1, "step": 525, "val/lo')
    assert only(tmp_path).rows == whole


@pytest.mark.parametrize(
    "line", ['{"step": 525, "val/lo\n', "[1]\n", '{"step": -1}\n', '{"step": true}\n', "\n", "\0\0\n"]
)
def test_a_broken_line_elsewhere_names_file_and_line(tmp_path, line):
    folder = write_run(tmp_path, until=500, status="running")
    append(folder, line + '{"step": 550}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 22, is broken"):
        find_runs(tmp_path)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"val/loss": "3.5"', "val/loss must be a number or null, not '3.5'"),
        ('"flops/total": [1]', r"flops/total must be a number or null, not \[1\]"),
        ('"seconds/total": true', "seconds/total must be a number or null, not True"),
        (f'"tokens": 1{"0" * 400}', "it holds a number of 401 digits"),
        ('"lr": "' + 100 * "x" + '"', "lr must be a number or null, not 'x{59}\\.\\.\\."),
        ('"lr": ' + 2000 * "[" + "1" + 2000 * "]", r"its keys or lists nest too deeply|not \[\[\["),
    ],
)
def test_a_value_that_is_no_number_names_file_line_and_key(tmp_path, value, why):
    append(write_run(tmp_path, until=500, status="running"), f'{{"step": 525, {value}}}\n')
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 22, is broken \(({why}).*\): cut the file there$"):
        find_runs(tmp_path)


def test_a_last_line_without_a_newline_counts_where_it_is_whole(tmp_path):
    folder = write_run(tmp_path, until=500, status="running")
    append(folder, '{"step": 525, "val/loss": 2.5}')
    assert only(tmp_path).rows[-1] == {"step": 525, "val/loss": 2.5}
    append(folder, '\n{"step": 550, "val/loss": "2.5"}')
    with pytest.raises(ValueError, match="line 23, is broken"):
        only(tmp_path)


def test_a_line_that_goes_back_is_refused(tmp_path):
    append(write_run(tmp_path), '{"schema": 1, "step": 5}\n')
    with pytest.raises(ValueError, match="goes back from step 1000 to 5: two programs wrote this run"):
        find_runs(tmp_path)


def test_null_and_nan_are_unknown(tmp_path):
    folder = write_run(tmp_path, until=500, status="diverged", flops_per_step=None)
    append(folder, '{"schema": 1, "step": 525, "val/loss": NaN, "train/loss": null, "seconds/total": Infinity}\n')
    run = only(tmp_path)
    assert run.rows[-1] == {"schema": 1, "step": 525, "val/loss": None, "train/loss": None, "seconds/total": None}
    assert run.points[-1].steps == 500
    assert run.last("flops/total") is None
    assert run.final_loss is None


def test_two_lines_of_one_step_are_one_row(tmp_path):
    folder = write_run(tmp_path, until=500, status="running")
    append(folder, '{"step": 510, "train/loss": 3.0}\n{"step": 510, "val/loss": 3.1}\n')
    assert only(tmp_path).rows[-1] == {"step": 510, "train/loss": 3.0, "val/loss": 3.1}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("manifest.json", "{", "manifest.json is broken"),
        ("manifest.json", "[]", "manifest.json is broken (not a mapping)"),
        ("manifest.json", '{"schema": 2}', "manifest.json is of schema 2 and this halfstep reads 1"),
        ("manifest.json", '{"schema": 1, "status": "done"}', "manifest.json: status is 'done'"),
        ("config.yaml", "a: [", "config.yaml, line 1, is broken"),
        ("config.yaml", "steps: 5", "config.yaml has no usable 'seed'"),
        ("config.yaml", "{steps: 5, seed: 0, optimizer: {lr: 1}}", "config.yaml does not name its optimizer"),
        ("config.yaml", None, "config.yaml is missing"),
        ("metrics.jsonl", '{"schema": 7, "step": 0}\n', "metrics.jsonl, line 1, is of schema 7"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, text, expected):
    path = write_run(tmp_path) / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared below
        find_runs(tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_runs_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        find_runs(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        find_runs(tmp_path / "nowhere")


def test_a_run_without_metrics_has_not_begun(tmp_path):
    (write_run(tmp_path, status="failed") / "metrics.jsonl").unlink()
    run = only(tmp_path)
    assert (run.step, run.rows, run.final_loss) == (0, [], None)


def test_running_means_that_its_lock_is_held(tmp_path):
    folder = write_run(tmp_path, until=250, status="running", seconds_per_step=0.1)
    lock = folder / "run.lock"
    assert only(tmp_path).status == "cut"
    assert RunReader(folder).read().time_left is None
    lock.touch()
    assert only(tmp_path).status == "cut"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = only(tmp_path)
        assert run.status == "running"
        assert RunReader(folder).read().time_left == pytest.approx(84.0)  # .1 s an update on the clock, .012 s off it
    assert only(tmp_path).status == "cut"


def test_the_list_of_runs(tmp_path):
    write_run(tmp_path, steps=1000)
    write_run(tmp_path, "lion", steps=1000, until=300, status="diverged")
    program = [sys.executable, "-m", "scripts.runs"]
    shown = subprocess.run([*program, str(tmp_path)], capture_output=True, text=True, env={"COLUMNS": "120"})
    assert shown.returncode == 0, shown.stderr
    assert "1,000/1,000" in shown.stdout
    assert f"{law(1000):.4f}" in shown.stdout
    assert "diverged" in shown.stdout
    assert "300/1,000" in shown.stdout

    empty = subprocess.run([*program, str(tmp_path / "none")], capture_output=True, text=True)
    assert empty.returncode == 2
    assert empty.stdout == ""
    assert empty.stderr.startswith("halfstep: ")
    assert empty.stderr.count("\n") == 1


def test_a_tree_differs_from_its_commit_where_that_could_change_a_run(tmp_path, monkeypatch):
    for folder in ("harness", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "harness" / "run_folder.py").touch()
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "harness" / "run_folder.py"))
    assert origin.git_state()["dirty"] is False
    (tmp_path / "results" / "new").touch()
    assert origin.git_state()["dirty"] is False
    (tmp_path / "report.html").touch()  # README's own commands write it there
    assert origin.git_state()["dirty"] is False
    (tmp_path / "harness" / "run_folder.py").write_text("changed")
    assert origin.git_state()["dirty"] is True
