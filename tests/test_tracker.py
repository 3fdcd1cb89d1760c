"""W&B as a mirror: every row once, the run unharmed whatever W&B does. No network: a stub stands in for the server."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import tracker, wandb_tracker
from harness.run_folder import RunFolder
from harness.wandb_tracker import WandbTracker
from tests.wandb_stub import WandbStub

wandb = pytest.importorskip("wandb")

ROOT = Path(__file__).resolve().parent.parent
CONFIG: dict[str, Any] = {
    "steps": 40,
    "seed": 1,
    "model": {"name": "gpt2_pico", "layers": 2},
    "data": {"name": "synthetic", "dir": "~/.cache/halfstep"},
    "optimizer": {"name": "adamw", "lr": 1e-3},
}


@pytest.fixture(autouse=True)
def bare_client(tmp_path, monkeypatch):
    """A client with a key of the right shape and no server, that takes nothing from this machine's own settings."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(wandb_tracker, "START", 1.0)
    monkeypatch.setattr(wandb_tracker, "FINISH", 2.0)
    yield
    wandb_tracker._tear_down()


@pytest.fixture
def server(monkeypatch):
    stub = WandbStub()
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setattr(wandb_tracker, "START", 10.0)
    yield stub
    stub.close()


def open_folder(path: Path, config: dict[str, Any] = CONFIG) -> RunFolder:
    """A run's folder as train.py has it when it makes the tracker."""
    folder = RunFolder(path, config, "5" * 64)
    manifest = {
        "study": "study", "config_hash": "5" * 64, "device": {}, "resolved": {}, "ranks": 1,
        "data": {"name": "synthetic", "fingerprint": "f"},
    }  # fmt: skip
    folder.open(manifest, resume=True)
    return folder


def mirror(folder: RunFolder, **keywords: Any) -> WandbTracker:
    return WandbTracker(folder.path, folder.config, folder.manifest, **keywords)


def row(step: int) -> dict[str, Any]:
    return {
        "step": step, "tokens": 512 * step, "val/loss": 5 + abs(step - 30) / 100, "gradient/norm": float("nan"),
        "flops/total": 10 * step, "flops/optimizer": None, "seconds/total": step / 7,
    }  # fmt: skip


def log(folder: RunFolder, to: WandbTracker, *steps: int) -> None:
    """What the recorder does with rows."""
    for step in steps:
        folder.append(row(step))
        to.log(row(step))


def records(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """What W&B's own reader finds in its newest files of this run, by kind."""
    newest = max(folder.path.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", str(newest), "--json"]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        record = json.loads(line)
        found[record["type"]].append(record.get(record["type"]))
    return found


@pytest.fixture
def clients(monkeypatch):
    """The processes that W&B's client starts beside ours."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, args: Any, *rest: Any, **keywords: Any) -> None:
            super().__init__(args, *rest, **keywords)
            if "wandb-core" in str(args):
                started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def stored_steps(folder: RunFolder) -> list[int]:
    return [record["item"]["step"] for record in records(folder)["history"]]


def run_told_command(said: str) -> None:
    """Do what the line on stderr says, in a shell."""
    arguments = re.search(r"wandb (sync .*)", said)[1]
    command = f"{sys.executable} -m wandb {arguments}"
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=30)


def random_states() -> list[Any]:
    import torch  # here, for the processes below that have no need of it

    generators = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    return [*generators, torch.get_num_threads(), torch.get_num_interop_threads()]


def test_an_offline_run_reads_back(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = open_folder(tmp_path / "a run")
    before = random_states()
    to = mirror(folder, mode="offline", tags=["mine", "adamw", "x" * 70])
    log(folder, to, 0, 30, 40)
    to.close("finished")
    assert random_states() == before

    found = records(folder)
    (run,) = found["run"]
    assert run["project"] == "halfstep"
    assert run["run_group"].startswith("study/adamw-")
    assert run["display_name"] == "a run"
    assert run["job_type"] == "train"
    assert run["tags"] == ["gpt2_pico", "synthetic", "adamw", "mine", "x" * 64]
    assert run["config"]["update"]["optimizer"] == CONFIG["optimizer"]
    assert run["config"]["update"]["manifest"]["started"] == folder.manifest["started"]

    rows = [record["item"] for record in found["history"]]
    known = [
        {key: value for key, value in row(step).items() if value is not None and value == value} for step in (0, 30, 40)
    ]
    assert [{key: value for key, value in r.items() if key[0] != "_"} for r in rows] == known
    assert [r["_step"] for r in rows] == [0, 30, 40]  # W&B's own Step is ours

    metrics = {m.get("name") or m["glob_name"]: m for m in found["metric"]}
    assert {"step", "tokens", "flops/total", "seconds/total"} < set(metrics)
    assert metrics["*"]["step_metric"] == metrics["val/loss"]["step_metric"] == "step"
    assert metrics["val/loss"]["summary"] == {"min": True, "last": True}
    summaries = {k: v for record in found["summary"] for k, v in record["update"].items()}
    assert summaries["val/loss"] == {"min": 5.0, "last": 5.1}
    assert summaries["status"] == "finished"
    assert [record["exit_code"] for record in found["exit"]] == [0]

    out, err = capfd.readouterr()
    assert out == ""
    (run_folder,) = (path.name for path in folder.path.glob("wandb/offline-run-*"))
    assert err == f"halfstep: W&B is offline; upload it with: wandb sync '{folder.path}/wandb/{run_folder}'\n"
    assert {path.name for path in tmp_path.iterdir()} - {".config", ".cache", ".local"} == {"a run"}


def test_seeds_share_a_group_and_nothing_else_does(tmp_path):
    def options(name: str, **changes: Any) -> dict[str, Any]:
        return mirror(open_folder(tmp_path / name, {**CONFIG, **changes}), mode="disabled")._options

    runs = [
        options("seed1"), options("seed2", seed=2), options("lr", optimizer={"name": "adamw", "lr": 2e-3}),
        options("lion", optimizer={"name": "external", "_target_": "pytorch_optimizer.Lion", "lr": 1e-3}),
    ]  # fmt: skip
    assert runs[0]["group"] == runs[1]["group"]
    assert len({run["group"] for run in runs}) == 3
    assert len({run["id"] for run in runs}) == 4
    assert runs[3]["group"].startswith("study/lion-")
    assert mirror(open_folder(tmp_path / "mine"), mode="disabled", group="mine")._options["group"] == "mine"


def test_a_resumed_run_goes_on_online(tmp_path, server, capfd):
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10, 20, 30)
    to.close("failed")
    (run,) = server.runs.values()
    assert run.exit_code == 1
    assert server.url in capfd.readouterr().err
    del run.lines[2:]  # rows 20 and 30 got lost on their way
    run.summary["_step"] = 10

    folder.close()
    folder = open_folder(tmp_path / "run")
    folder.cut(25)  # what a checkpoint after 25 updates leaves
    to = mirror(folder)
    log(folder, to, 30, 40)
    to.close("finished")
    assert list(server.runs.values()) == [run]
    assert [(r["step"], r["_step"]) for r in run.rows] == [(s, s) for s in (0, 10, 20, 30, 40)]
    assert run.first("groupName").startswith("study/adamw-")
    assert run.first("tags") == ["gpt2_pico", "synthetic", "adamw"]
    assert run.summary["val/loss"] == {"min": 5.0, "last": 5.1}
    assert run.exit_code == 0

    folder.close()
    folder = open_folder(tmp_path / "run")
    folder.cut(15)  # behind what the server has
    to = mirror(folder)
    log(folder, to, 20, 30, 40, 50)
    to.close("finished")
    assert [r["step"] for r in run.rows] == [0, 10, 20, 30, 40, 50]


CUT = """
import os, signal, sys
from pathlib import Path
from tests.test_tracker import log, mirror, open_folder

folder = open_folder(Path(sys.argv[1]))
log(folder, mirror(folder, mode="offline"), 0, 10, 20)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
raise SystemExit(2)
"""


def cut(folder: Path, how: str) -> int:
    return subprocess.run([sys.executable, "-c", CUT, str(folder), how], cwd=ROOT).returncode


def test_a_run_that_fails_does_not_look_finished(tmp_path):
    assert cut(tmp_path / "run", "exit") == 2
    found = records(RunFolder(tmp_path / "run", {}, ""))
    assert [record["exit_code"] for record in found["exit"]] == [1]
    assert len(found["history"]) == 3


def test_a_killed_offline_run_goes_on_and_syncs(tmp_path, server, capfd):
    assert cut(tmp_path / "run", "kill") == -signal.SIGKILL
    for rows in (20, 30, 40), (50, 60):  # resumed, synced, resumed and synced again
        folder = open_folder(tmp_path / "run")
        folder.cut(rows[0])
        capfd.readouterr()
        to = mirror(folder, mode="offline")
        log(folder, to, *rows)
        to.close("finished")
        run_told_command(capfd.readouterr().err)
        folder.close()
    (run,) = server.runs.values()
    assert [(r["step"], r["_step"]) for r in run.rows] == [(s, s) for s in range(0, 70, 10)]
    assert run.exit_code == 0


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("no key", "wandb login"),
        ("no network", "refused"),
        pytest.param("a broken key", "API key", marks=pytest.mark.slow),
    ],
)
def test_without_a_server_the_mirror_is_kept_offline(tmp_path, capfd, monkeypatch, trouble, said):
    if trouble == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if trouble == "a broken key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    folder = open_folder(tmp_path / "run")
    start = time.perf_counter()
    to = mirror(folder)
    assert time.perf_counter() - start < 8
    log(folder, to, 0, 10)
    to.close("finished")
    assert stored_steps(folder) == [0, 10]
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err
    assert "kept offline" in err

    if trouble == "no network":  # and once it is back
        stub = WandbStub()
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        run_told_command(err)
        (run,) = stub.runs.values()
        stub.close()
        assert [r["step"] for r in run.rows] == [0, 10]


def test_the_server_dies_in_the_middle(tmp_path, server, capfd):
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10)
    server.answering.clear()
    start = time.perf_counter()
    log(folder, to, *range(20, 520, 10))
    assert time.perf_counter() - start < 2
    to.close("finished")
    assert time.perf_counter() - start < 12
    shown, told = capfd.readouterr().err.splitlines()
    assert "W&B shows this run at" in shown
    assert "did not take the whole run" in told

    server.answering.set()
    run_told_command(told)
    (run,) = server.runs.values()
    assert {r["step"] for r in run.rows} == set(range(0, 520, 10))


def test_the_client_dies_in_the_middle(tmp_path, server, capfd, clients):
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10)
    clients[0].kill()
    clients[0].wait()
    log(folder, to, 20, 30)
    to.close("finished")
    assert "kept offline" in capfd.readouterr().err.splitlines()[1]
    assert stored_steps(folder) == [0, 10, 20, 30]


def test_a_client_that_hangs_is_left_behind(tmp_path, capfd, clients, monkeypatch):
    for bound in ("FINISH", "GRACE", "TEARDOWN"):
        monkeypatch.setattr(wandb_tracker, bound, 0.5)
    folder = open_folder(tmp_path / "run")
    to = mirror(folder, mode="offline")
    log(folder, to, 0)
    clients[0].send_signal(signal.SIGSTOP)
    start = time.perf_counter()
    to.close("finished")
    assert time.perf_counter() - start < 3
    assert "no answer within" in capfd.readouterr().err
    clients[0].kill()


def test_a_call_that_raises_ends_an_offline_mirror_and_not_the_run(tmp_path, capfd):
    folder = open_folder(tmp_path / "run")
    to = mirror(folder, mode="offline")

    def log_nothing(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of\nluck")

    to._run.log = log_nothing
    log(folder, to, 0, 10)
    to.close("finished")
    assert capfd.readouterr().err.splitlines()[1:] == [
        "halfstep: W&B failed (out of luck); the run goes on without it, metrics.jsonl has every row"
    ]


def test_without_the_package(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10)
    to.close("finished")
    (line,) = capfd.readouterr().err.splitlines()
    assert "pip install wandb" in line
    assert not (folder.path / "wandb").exists()


def test_an_unknown_tracker_is_named():
    with pytest.raises(ValueError, match="did you mean wandb"):
        tracker.find("wanbd")


def test_bounded():
    assert wandb_tracker.bounded(lambda: 3, 1) == 3
    with pytest.raises(KeyError):
        wandb_tracker.bounded(lambda: {}["missing"], 1)
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match="no answer"):
        wandb_tracker.bounded(lambda: time.sleep(5), 0.1)
    assert time.perf_counter() - start < 2


TINY = [
    "model=gpt2_pico", "data=synthetic", "data.tokens=20000", "data.val_tokens=2000", "data.vocabulary=256",
    "steps=4", "batch.tokens=512", "eval.tokens=256", "eval.every=2", "log.every=1", "device=cpu",
]  # fmt: skip


def train(folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    command = [sys.executable, "train.py", *TINY, f"data.dir={folder.parent / 'data'}", f"run_dir={folder}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], done


def test_the_real_command_offline(tmp_path):
    rows, done = train(tmp_path / "run", "tracker=wandb", "tracker.mode=offline")
    history = records(RunFolder(tmp_path / "run", {}, ""))["history"]
    for ours, theirs in zip(rows, history, strict=True):
        expected = {key: value for key, value in ours.items() if key != "schema" and value is not None}
        assert expected == {key: value for key, value in theirs["item"].items() if key[0] != "_"}
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4]
    assert "wandb" not in done.stdout
    assert done.stderr.count("W&B") == 1


@pytest.mark.slow
def test_a_tracker_changes_no_bits(tmp_path, server):
    kept = ("val/loss", "train/loss", "gradient/norm", "flops/total", "update/weight_ratio")
    runs = [train(tmp_path / str(i), *more)[0] for i, more in enumerate(([], ["tracker=wandb"]))]
    assert [[r.get(key) for key in kept] for r in runs[0]] == [[r.get(key) for key in kept] for r in runs[1]]
    (run,) = server.runs.values()
    assert [r["step"] for r in run.rows] == [0, 1, 2, 3, 4]
