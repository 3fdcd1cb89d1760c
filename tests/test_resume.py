"""Killed at any moment and resumed, a run is the run that was never killed: to the last bit, each step once."""

import os
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch

import data.plan
import train
from harness import checkpoint
from optimizers import build_optimizer, list_optimizers
from tests.cases import quick_cases
from tests.command import (
    ROOT,
    SMALL,
    complaint,
    contents,
    end,
    environment,
    in_process,
    interrupted,
    manifest,
    rows,
    start,
    trained,
)
from tests.test_optimizers import EVERY
from tests.tiny import tiny_model, tiny_objective
from tests.tiny import train as train_tiny

SAM = "optimizer.base._target_=pytorch_optimizer.SAM optimizer.base.base._target_=torch.optim.AdamW"
CLASSES = {  # and what is given to them
    "LBFGS": "torch.optim.LBFGS optimizer.lr=1e-2 optimizer.max_iter=3 optimizer.history_size=2",
    "schedule-free": "pytorch_optimizer.ScheduleFreeAdamW optimizer.lr=1e-2",
    "a queue": "pytorch_optimizer.AdaShift optimizer.lr=1e-2",
    "two": "torch.optim.Muon optimizer.lr=1e-2 optimizer.rest._target_=torch.optim.NAdam",
    "a wrapper": f"pytorch_optimizer.Lookahead optimizer.k=2 {SAM}",
    "averages": "pytorch_optimizer.ScheduleFreeWrapper optimizer.base._target_=torch.optim.SGD",
    "its own classes": "pytorch_optimizer.Conda optimizer.lr=1e-2",  # projectors in its state
}
OPTIMIZERS = {info.name: (f"optimizer={info.name}",) for info in list_optimizers()}
OPTIMIZERS |= {name: ("optimizer=external", *f"optimizer._target_={text}".split()) for name, text in CLASSES.items()}
EVERY_THREE = ("steps=8", "checkpoint.every=3", "eval.every=4", "target_loss=5.4")


@pytest.fixture
def steps_made(monkeypatch):
    """The steps whose batches are drawn from now on."""
    made = []
    draw = train.Loader.batch
    monkeypatch.setattr(train.Loader, "batch", lambda self, step: made.append(step) or draw(self, step))
    return made


def assert_same_run(one, other):
    assert rows(one) == rows(other)
    assert manifest(one)["status"] == manifest(other)["status"] == "finished"
    last = sorted(path.name for path in (other / "checkpoints").iterdir())
    assert sorted(path.name for path in (one / "checkpoints").iterdir()) == last
    weights = [(run / "checkpoints" / last[-1] / "model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]


# One of each kind of state; the others are slow.
KINDS = ("soap", "sophia_g", "schedule-free", "a wrapper")


@pytest.mark.parametrize("name", quick_cases(OPTIMIZERS, KINDS))
def test_every_optimizer_goes_on_to_the_same_bits(here, name):
    arguments = (*OPTIMIZERS[name], *EVERY_THREE)
    trained(*arguments, run_dir="whole")
    interrupted(*arguments, run_dir="cut", at=2)
    interrupted(*arguments, run_dir="cut", resume=True, at=5)
    assert [row["step"] for row in rows(here / "cut")] == [0, 1, 2, 3, 4]
    trained(*arguments, run_dir="cut", resume=True)
    assert [row["step"] for row in rows(here / "cut")] == list(range(9))
    assert_same_run(here / "cut", here / "whole")
    kept = manifest(here / "cut")
    assert [part["step"] for part in (kept["began"], *kept["resumes"])] == [0, 0, 3]
    assert all(part["resolved"] == kept["resolved"] and part["ranks"] == 1 for part in kept["resumes"])


@pytest.mark.parametrize("every", [26, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_change_to_the_disk(here, every):
    arguments = ("optimizer=sophia_g", "optimizer.every=2", "steps=4", "checkpoint.every=1", "target_loss=5.3")
    trained(*arguments, run_dir="whole")
    first = random.randrange(1, every + 1)
    line = [sys.executable, "-m", "tests.killed", str(here), str(first), str(every), *SMALL, *arguments]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"first={first}\n{done.stderr}"
    killed = [path for path in here.iterdir() if path.name.isdigit()]
    assert len(killed) > 40 / every
    for run in killed:
        assert_same_run(run, here / "whole")


def kill_when(process, condition):
    """SIGKILL at the moment, or, where that never comes, at the process's own end."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return process.returncode == -9


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sophia_g"])
def test_the_real_command_killed(here, optimizer):
    arguments = (f"optimizer={optimizer}", "steps=20", "checkpoint.every=5", "batch.tokens=1024", "batch.micro=1")
    trained(*arguments, run_dir="whole")
    run = here / "run"
    moment = random.uniform(0, 0.3)

    def later():
        if (run / "metrics.jsonl").exists():
            time.sleep(moment)
            return True
        return False

    moments = {
        "adamw": [(run / "run.lock").exists, lambda: any((run / "checkpoints").glob(".new-*"))],
        "sophia_g": [(run / "metrics.jsonl").exists, later],
    }[optimizer]
    killed = [kill_when(start(*arguments, "run_dir=run", "resume=true", cwd=here), condition) for condition in moments]
    assert killed[0]
    ended = end(start(*arguments, "run_dir=run", "resume=true", cwd=here))
    assert (ended.code, ended.err) == (0, ""), f"killed={killed} moment={moment}"
    assert [row["step"] for row in rows(run)] == list(range(21))
    assert_same_run(run, here / "whole")


def flip(path, place=-40):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "weights cut short": lambda step: os.truncate(step / "model.safetensors", 1000),
    "weights flipped": lambda step: flip(step / "model.safetensors"),
    "state flipped": lambda step: flip(step / "optimizer.pt", 5000),
    "state missing": lambda step: (step / "optimizer.pt").unlink(),
    "a digit changed": lambda step: flip(
        step / "state.json", (step / "state.json").read_bytes().index(b'"model": ') + 9
    ),
    "no text": lambda step: (step / "state.json").write_bytes(b"\xff\xfe\x00"),
    "another JSON": lambda step: (step / "state.json").write_text("[1]"),
    "empty": lambda step: shutil.rmtree(step) or step.mkdir(),
    "a file": lambda step: shutil.rmtree(step) or step.write_text("x"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, corpus):
    """Train one config twice: `whole` makes 8 steps, `cut` is stopped at step 7, with checkpoints of 3 and 6."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained(*EVERY_THREE, run_dir="whole")
        interrupted(*EVERY_THREE, run_dir="cut", at=7)
    return folder


@pytest.fixture
def cut(here, made):
    """The test's own copy of `cut`."""
    return shutil.copytree(made / "cut", here / "cut")


@pytest.mark.parametrize("damage", quick_cases(DAMAGE, {"weights flipped", "state missing", "no text", "empty"}))
def test_a_damaged_checkpoint_falls_back_to_the_one_before(made, cut, damage, steps_made, capsys):
    DAMAGE[damage](cut / "checkpoints" / "step-00000006")
    trained(*EVERY_THREE, run_dir="cut", resume=True)
    assert capsys.readouterr().err == ""
    assert steps_made == [3, 4, 5, 6, 7]
    assert_same_run(cut, made / "whole")


def test_all_checkpoints_damaged(cut, steps_made):
    for step in (cut / "checkpoints").iterdir():
        flip(step / "model.safetensors")
    before = contents(cut)
    output = complaint(in_process(*EVERY_THREE, "run_dir=cut", "resume=true"))
    assert output == (
        "no checkpoint in cut/checkpoints is whole (step-00000006, step-00000003): delete that folder to start over"
    )
    assert contents(cut) == before
    shutil.rmtree(cut / "checkpoints")
    trained(*EVERY_THREE, run_dir="cut", resume=True)
    assert steps_made == list(range(8))


def test_a_checkpoint_from_another_run(here, cut):
    trained(*EVERY_THREE, "optimizer.weight_decay=0.5", run_dir="other")
    other = cut / "checkpoints" / "step-00000008"
    shutil.copytree(here / "other" / "checkpoints" / "step-00000008", other)
    before = contents(cut)
    output = complaint(in_process(*EVERY_THREE, "run_dir=cut", "resume=true"))
    assert output.startswith("cut/checkpoints/step-00000008 is the checkpoint of another config")
    assert contents(cut) == before


def test_tokens_that_changed_while_the_run_was_down(cut, monkeypatch):
    before = contents(cut)
    load = data.plan.load
    monkeypatch.setattr(
        data.plan, "load", lambda *a, **k: data.Dataset(**{**vars(load(*a, **k)), "fingerprint": "other"})
    )
    with pytest.raises(ValueError, match="cut was begun on other tokens"):
        trained(*EVERY_THREE, run_dir="cut", resume=True)
    assert {**contents(cut), "run.lock": ()} == {**before, "run.lock": ()}


def test_what_a_kill_or_an_editor_left_in_the_metrics_is_computed_again(made, cut):
    with open(cut / "metrics.jsonl", "ab") as file:
        file.write(b'{"schema": 1, "step": 6, "tok\xff\n')
    trained(*EVERY_THREE, run_dir="cut", resume=True)
    assert_same_run(cut, made / "whole")


@pytest.mark.slow
def test_the_number_of_threads_is_the_runs_own(here, made, monkeypatch):
    """The next run of a sweep does not take it over."""
    arguments = (*EVERY_THREE, "study=threads")
    interrupted(*arguments, "seed=0", at=5)
    monkeypatch.setattr("tests.command.THREADS", 2)
    assert in_process("-m", *arguments, "seed=0,1", "resume=true").code == 0
    runs = {name: next(here.glob(f"results/runs/threads/*-{name}-*")) for name in ("s0", "s1")}
    assert {name: manifest(run)["device"]["threads"] for name, run in runs.items()} == {"s0": 1, "s1": 2}
    assert_same_run(runs["s0"], made / "whole")


def test_without_checkpoints_it_starts_over(here, steps_made):
    arguments = (*EVERY_THREE, "checkpoint.every=null")
    interrupted(*arguments, run_dir="cut", at=5)
    target = manifest(here / "cut")["target"]["seconds/total"]
    steps_made.clear()
    trained(*arguments, run_dir="cut", resume=True)
    assert steps_made == list(range(8))
    assert [row["step"] for row in rows(here / "cut")] == list(range(9))
    assert manifest(here / "cut")["target"]["seconds/total"] != target  # of these steps, not of those that are gone
    assert [path.name for path in (here / "cut" / "checkpoints").iterdir()] == ["step-00000008"]


def test_resume_on_a_new_folder_begins(here):
    trained("steps=1", run_dir="new", resume=True)
    assert manifest(here / "new")["resumes"] == []


def saved(folder, step, model=None, optimizer=None):
    model = model or tiny_model()
    checkpoint.save(folder, step, model, optimizer or torch.optim.SGD(model.parameters(), lr=0.1), {"note": step})


def test_only_the_newest_two_are_kept_and_nothing_of_the_users_goes(tmp_path):
    (tmp_path / "step-00000001-mine").mkdir(parents=True)
    (tmp_path / ".new-step-00000099").mkdir()  # of a killed process
    for step in (1, 2, 30, 4000):
        saved(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001-mine", "step-00000030", "step-00004000"]
    assert checkpoint.newest(tmp_path)[1]["note"] == 4000


def test_damaged_later_ones_do_not_push_out_good_ones(tmp_path):
    for step in (10, 20):
        saved(tmp_path, step)
        flip(tmp_path / f"step-{step:08d}" / "model.safetensors")
    for step in (5, 6):
        saved(tmp_path, step)
    assert checkpoint.newest(tmp_path)[1]["note"] == 6
    assert checkpoint.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", EVERY)
def test_state_comes_back_in_the_dtype_it_was_saved_in(tmp_path, name):
    """load_state_dict alone would cast fp32 state to the dtype of bf16 parameters."""
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = build_optimizer(name, model)
    train_tiny(model, optimizer, tiny_objective(model), steps=3)
    saved(tmp_path, 3, model, optimizer)
    other = tiny_model(seed=1, dtype=torch.bfloat16)
    back = build_optimizer(name, other)
    checkpoint.load(checkpoint.newest(tmp_path)[0], other, back)
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    for p, q in pairs:
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == back.state[q].keys()
        for key, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == back.state[q][key].dtype
                assert torch.equal(value, back.state[q][key])
    if name in ("lion", "sophia_g"):
        assert {v.dtype for p, _ in pairs for v in optimizer.state[p].values()} == {torch.float32}
