"""The W&B mirror where all goes well: offline, online, after a kill, and by the real command."""

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
from tests.mirror import (
    CONFIG,
    bare_client,
    be_patient,
    cut,
    log,
    mirror,
    open_folder,
    random_states,
    records,
    row,
    run_told_command,
    server,
    stored_steps,
)
from tests.wandb_stub import WandbStub


def test_an_offline_run_reads_back(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    be_patient(monkeypatch)
    folder = open_folder(tmp_path / "a run")
    before = random_states()
    to = mirror(folder, mode="offline", tags=["mine", "adamw", "x" * 70])
    log(folder, to, 0, 30, 40)
    to.close("finished")
    assert random_states() == before

    result = records(folder)
    (run,) = result["run"]
    assert run["project"] == "halfstep"
    assert run["run_group"].startswith("study/adamw-")
    assert run["display_name"] == "a run"
    assert run["job_type"] == "train"
    assert run["tags"] == ["gpt2_pico", "synthetic", "adamw", "mine", "x" * 64]
    assert run["config"]["update"]["optimizer"] == CONFIG["optimizer"]
    assert run["config"]["update"]["manifest"]["started"] == folder.manifest["started"]

    rows = [record["item"] for record in result["history"]]
    known = [
        {key: value for key, value in row(step).items() if value is not None and value == value} for step in (0, 30, 40)
    ]
    assert [{key: value for key, value in r.items() if key[0] != "_"} for r in rows] == known
    assert [r["_step"] for r in rows] == [0, 30, 40]  # W&B's own Step is ours

    metrics = {m.get("name") or m["glob_name"]: m for m in result["metric"]}
    assert {"step", "tokens", "flops/total", "seconds/total"} < set(metrics)
    assert metrics["*"]["step_metric"] == metrics["val/loss"]["step_metric"] == "step"
    assert metrics["val/loss"]["summary"] == {"min": True, "last": True}
    summaries = {k: v for record in result["summary"] for k, v in record["update"].items()}
    assert summaries["val/loss"] == {"min": 5.0, "last": 5.1}
    assert summaries["status"] == "finished"
    assert [record["exit_code"] for record in result["exit"]] == [0]

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
    folder.cut(25, [0, 10, 20])  # what a checkpoint after 25 updates leaves
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
    folder.cut(15, [0, 10])  # behind what the server has
    to = mirror(folder)
    log(folder, to, 20, 30, 40, 50)
    to.close("finished")
    assert [r["step"] for r in run.rows] == [0, 10, 20, 30, 40, 50]


@pytest.mark.slow
def test_a_run_that_fails_does_not_look_finished(tmp_path):
    assert cut(tmp_path / "run", "exit") == 2
    result = records(RunFolder(tmp_path / "run", {}, ""))
    assert [record["exit_code"] for record in result["exit"]] == [1]
    assert len(result["history"]) == 3


@pytest.mark.slow
def test_a_killed_offline_run_goes_on_and_syncs(tmp_path, server, capfd):
    assert cut(tmp_path / "run", "kill") == -signal.SIGKILL
    for rows in (20, 30, 40), (50, 60):  # resumed, synced, resumed and synced again
        folder = open_folder(tmp_path / "run")
        folder.cut(rows[0], list(range(0, rows[0], 10)))
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
    ("trouble", "output"),
    [
        ("no key", "wandb login"),
        ("no network", "refused"),
        pytest.param("a broken key", "API key", marks=pytest.mark.slow),
    ],
)
def test_without_a_server_the_mirror_is_kept_offline(tmp_path, capfd, monkeypatch, trouble, output):
    if trouble == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if trouble == "a broken key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    folder = open_folder(tmp_path / "run")
    to = mirror(folder)
    log(folder, to, 0, 10)
    to.close("finished")
    assert stored_steps(folder) == [0, 10]
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert output in err
    assert "kept offline" in err

    if trouble == "no network":  # and once it is back
        stub = WandbStub()
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        run_told_command(err)
        (run,) = stub.runs.values()
        stub.close()
        assert [r["step"] for r in run.rows] == [0, 10]
