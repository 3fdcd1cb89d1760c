"""What the tests of the W&B mirror share: a bare client, a stub server, a run's folder and its mirror."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import wandb_tracker
from harness.run_folder import RunFolder
from harness.wandb_tracker import WandbTracker
from tests.wandb_stub import WandbStub

ROOT = Path(__file__).resolve().parent.parent
LONG = 600.0  # seconds: only what hangs takes as long, however slow the machine
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
    be_patient(monkeypatch)
    yield stub
    stub.close()


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the bounds on time, for tests in which nothing is away or hangs: the machine may be slow."""
    for bound in ("START", "LOG", "FINISH", "GRACE"):
        monkeypatch.setattr(wandb_tracker, bound, LONG)


def open_folder(path: Path, config: dict[str, Any] = CONFIG) -> RunFolder:
    """A run's folder as train.py has it when it makes the tracker."""
    folder = RunFolder(path, config, "5" * 64)
    manifest = {
        "study": "study", "config_hash": "5" * 64, "device": {}, "resolved": {"micro": 1}, "ranks": 1,
        "data": {"name": "synthetic", "fingerprint": "f"},
    }  # fmt: skip
    folder.open(manifest, resume=True)
    return folder


def mirror(folder: RunFolder, **keywords: Any) -> WandbTracker:
    """A mirror whose client has started, so that what follows finds it there."""
    to = WandbTracker(folder.path, folder.config, folder.manifest, **keywords)
    to.take_up(LONG)
    return to


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
    result: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        record = json.loads(line)
        result[record["type"]].append(record.get(record["type"]))
    return result


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


def run_told_command(output: str) -> None:
    """Do what the line on stderr says, in a shell, and in a folder that may keep the log of it."""
    arguments = re.search(r"wandb (sync .*)", output)[1]
    command = f"{sys.executable} -m wandb {arguments}"
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(command, shell=True, check=True, capture_output=True, timeout=LONG, cwd=place)


def random_states() -> list[Any]:
    import torch  # here, for the processes below that have no need of it

    generators = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    return [*generators, torch.get_num_threads(), torch.get_num_interop_threads()]


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
