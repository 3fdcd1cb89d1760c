"""The W&B mirror where things go wrong: the run goes on, and says in one line what became of its mirror."""

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
from threading import Event
from typing import Any

import numpy as np
import pytest

from harness import tracker, wandb_tracker
from harness.run_folder import RunFolder
from harness.wandb_tracker import WandbTracker
from tests.mirror import (
    ROOT,
    bare_client,
    be_patient,
    clients,
    log,
    mirror,
    open_folder,
    records,
    row,
    run_told_command,
    server,
    stored_steps,
)
from tests.wandb_stub import WandbStub


@pytest.mark.slow
def test_the_server_dies_in_the_middle(tmp_path, server, capfd, monkeypatch):
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10)
    server.answering.clear()
    log(folder, to, *range(20, 520, 10))  # which does not wait for the server, or it would hang
    monkeypatch.setattr(wandb_tracker, "FINISH", 1.0)
    monkeypatch.setattr(wandb_tracker, "GRACE", 5.0)
    to.close("finished")
    shown, expected = capfd.readouterr().err.splitlines()
    assert "W&B shows this run at" in shown
    assert "did not take the whole run" in expected

    server.answering.set()
    run_told_command(expected)
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
    expected = [line for line in capfd.readouterr().err.splitlines() if line.startswith("halfstep:")]
    assert "kept offline" in expected[1]
    assert stored_steps(folder) == [0, 10, 20, 30]


def test_a_client_that_hangs_is_left_behind(tmp_path, capfd, clients, monkeypatch):
    be_patient(monkeypatch)
    folder = open_folder(tmp_path / "run")
    to = mirror(folder, mode="offline")
    log(folder, to, 0)
    clients[0].send_signal(signal.SIGSTOP)
    for bound in ("PATIENCE", "GRACE", "TEARDOWN"):
        monkeypatch.setattr(wandb_tracker, bound, 0.5)
    to.close("finished")
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
    with pytest.raises(TimeoutError, match="no answer"):
        wandb_tracker.bounded(Event().wait, 0.1)  # which nobody sets


TINY = [
    "model=gpt2_pico", "data=synthetic", "data.tokens=20000", "data.val_tokens=2000", "data.vocabulary=256",
    "steps=4", "batch.tokens=512", "eval.tokens=256", "eval.every=2", "log.every=1", "device=cpu",
]  # fmt: skip


# The command, with a client that may take its time.
PATIENT = """
import runpy, sys
from harness import wandb_tracker
wandb_tracker.START = wandb_tracker.LOG = wandb_tracker.FINISH = 600.0
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def train(folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    command = [
        sys.executable,
        "-c",
        PATIENT,
        *TINY,
        f"data.dir={folder.parent / 'data'}",
        f"run_dir={folder}",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], done


@pytest.mark.slow
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
