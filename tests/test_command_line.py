"""What the command finds wrong in files, folders, disks and networks, and what it leaves alone; and help."""

import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from harness.command_line import help_text
from tests.command import (
    ROOT,
    complaint,
    contents,
    end,
    environment,
    in_process,
    interrupted,
    manifest,
    real,
    rows,
    start,
    trained,
)

SLOW = pytest.mark.slow


def test_no_gpu(here):
    device = f"cuda:{torch.cuda.device_count()}"
    assert complaint(in_process(f"device={device}")).startswith(f"device={device}: ")
    assert not list(here.iterdir())


@SLOW
def test_no_network_for_a_corpus(here):
    arguments = ("data=openwebtext", "data.tokenizer=bytes", f"data.dir={here / 'data'}")
    output = complaint(real(*arguments, cwd=here, env=environment(HF_HUB_OFFLINE="1")))
    assert "data.repository=" in output
    assert "cannot be reached" in output
    assert not (here / "results").exists()


@SLOW
def test_no_network_for_the_tokenizer(here):
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    cache = {"TIKTOKEN_CACHE_DIR": str(here / "bpe"), "NO_PROXY": "", "no_proxy": ""}
    arguments = ("data.tokenizer=gpt2", f"data.dir={here / 'data'}")
    output = complaint(real(*arguments, cwd=here, env=environment(**nowhere, **cache)))
    assert "data.tokenizer=gpt2: tiktoken could not fetch its BPE files" in output
    assert "TIKTOKEN_CACHE_DIR" in output
    assert not (here / "results").exists()


def shard(path, tokens=20_000):
    """A shard of the community's format, made by hand."""
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, tokens
    values = np.random.RandomState(0).randint(0, 256, tokens).astype("<u2")
    path.write_bytes(header.tobytes() + values.tobytes())


HARMS = {
    "short": (lambda old: old[:-1000], "train.bin is cut short: its header promises 20000"),
    "foreign": (lambda old: b"PAR1" + bytes(5000), "train.bin is not a token shard but Parquet"),
    "text": (lambda old: b"once upon a time\n" * 500, "train.bin is not a token shard but text"),
    "changed": (lambda old: old[:-2] + b"\x07\x00", "train.bin has changed since its fingerprint"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_shards(here, harm):
    for name in ("train.bin", "val.bin"):
        shard(here / name)
    arguments = ("data=shards", "data.train=train.bin", "data.val=val.bin", "data.vocabulary=256", "data.dir=data")
    trained(*arguments, "steps=1", run_dir="first")
    before = contents(here / "first")
    harmed, sentence = HARMS[harm]
    (here / "train.bin").write_bytes(harmed((here / "train.bin").read_bytes()))
    assert sentence in complaint(in_process(*arguments, "run_dir=second"))
    assert not (here / "second").exists()
    assert contents(here / "first") == before


def test_a_sick_prepared_corpus_is_not_prepared_over(here, corpus):
    """Our own shards too are checked, and what is wrong with them is not mended in silence."""
    folder = here / "data" / corpus.folder.name
    shutil.copytree(corpus.folder, folder)
    path = next(folder.glob("val_*.bin"))
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00")
    output = complaint(in_process(f"data.dir={here / 'data'}"))
    assert f"{path} has changed since its fingerprint was taken; delete {folder} and run again" in output
    assert not (here / "results").exists()


def test_help_is_complete_and_imports_nothing_heavy(here):
    """It answers at once, since what takes long to import is not imported."""
    line = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "optimizer=sophia_g", "--help"]
    helped = subprocess.run(line, capture_output=True, text=True, cwd=here)
    assert helped.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in helped.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "numpy", "scipy", "matplotlib", "transformers", "datasets", "wandb", "optimizers"}
    for key in ("steps: 500 ", "tokens: 8192 ", "grad_clip: 1.0 ", "resume: false ", "target_loss: null "):
        (line,) = [line for line in helped.stdout.splitlines() if line.strip().startswith(key)]
        assert "# " in line  # its meaning
    assert "adafactor, adagrad, " in helped.stdout
    assert "rho: null" in helped.stdout  # the chosen option's own keys
    assert not list(here.iterdir())


def test_help_names_every_key_and_group():
    text = help_text("", [])
    keys = set(yaml.safe_load((ROOT / "configs" / "train.yaml").read_text())) - {"defaults", "hydra"}
    groups = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
    others = {"claim", "public"}  # scripts.claims' and scripts.public's
    for key in keys | groups - others:
        assert re.search(rf"^\s*{key}\b", text, re.M), key
    listed = set(re.findall(r"^  (\w+) +\w", text.partition("Groups (")[2], re.M))
    assert listed == groups - others


def test_help_into_a_pipe_that_is_closed(here):
    line = f"{sys.executable} {ROOT / 'train.py'} --help | true"
    assert subprocess.run(line, shell=True, capture_output=True, text=True, cwd=here).stderr == ""


def test_a_folder_that_exists_is_not_touched(here):
    trained("steps=2", run_dir="run")
    before = contents(here / "run")
    output = complaint(in_process("run_dir=run", "steps=2"))
    assert output.startswith("run exists already (finished): add resume=true to go on with it, or give another run_dir")
    done = in_process("run_dir=run", "steps=2", "resume=true")
    assert done == (0, "run is finished already\n", "")
    assert contents(here / "run") == before


def test_a_checkpoint_of_another_config(here):
    again = ("run_dir=run", "steps=2", "resume=true")
    trained("steps=2", run_dir="run")
    before = contents(here / "run")
    output = complaint(in_process(*again, "optimizer.lr=1e-5", "seed=3"))
    assert output.startswith("run is a run of another config (it differs in optimizer.lr, seed): give the same keys")
    assert "differs in optimizer.betas, " in complaint(in_process(*again, "optimizer=sgd"))
    # What a run computes does not depend on these; and 1 is 1.0.
    assert in_process(*again, "checkpoint.every=1", "study=x", "tracker=none").code == 0
    assert in_process(*again, "grad_clip=1").code == 0
    assert contents(here / "run") == before


def test_folders_that_are_no_runs(here):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("x")
    (here / "file").write_text("x")
    before = contents(here)
    assert "run_dir=mine holds files but no run" in complaint(in_process("run_dir=mine"))
    assert "run_dir=file is a file" in complaint(in_process("run_dir=file"))
    assert contents(here) == before
    for text in ("{", "[]", "{}", "\udcff"):
        (here / "run").mkdir(exist_ok=True)
        (here / "run" / "manifest.json").write_text(text, errors="surrogateescape")
        assert "run/manifest.json is broken" in complaint(in_process("run_dir=run", "resume=true"))
    (here / "empty").mkdir()
    trained("steps=1", run_dir="empty")


def test_the_folder_of_a_run_that_holds_its_lock_is_left_alone(here):
    interrupted(run_dir="run", at=3)
    before = contents(here / "run")
    with open(here / "run" / "run.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arguments in ((), ("resume=true",)):
            output = complaint(in_process("run_dir=run", *arguments))
            assert output == "run is being written by a run that is still going: wait for it or stop it"
    assert contents(here / "run") == before


@SLOW
def test_a_live_runs_folder_is_left_alone(here):
    live = start("run_dir=run", "steps=100000", cwd=here)
    try:
        wait_for(here / "run" / "metrics.jsonl", live)
        for arguments in ((), ("resume=true",)):
            output = complaint(in_process("run_dir=run", "steps=100000", *arguments))
            assert output == "run is being written by a run that is still going: wait for it or stop it"
        assert live.poll() is None
    finally:
        live.send_signal(signal.SIGINT)
    ended = end(live)
    assert ended.code == 130
    assert ended.err.strip().startswith("halfstep: interrupted; the same command with resume=true goes on")
    assert "run exists already (running)" in complaint(in_process("run_dir=run", "steps=100000"))


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, end(process)
        time.sleep(0.01)


@SLOW
def test_two_that_start_at_once_do_not_share_a_folder(here):
    both = [start("run_dir=run", "steps=300", "checkpoint.every=null", cwd=here) for _ in range(2)]
    ended = sorted((end(process) for process in both), key=lambda e: e.code)
    assert ended[0].code == 0
    assert re.search("still going|exists already", complaint(ended[1]))
    assert [row["step"] for row in rows(here / "run")] == list(range(301))


def limited(kilobytes):
    """Let no file grow larger, as a preexec_fn. The kernel then fails a write as it does on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, 1024 * kilobytes))


# In kB: too little for manifest.json; for the weights; for the optimizer's state.
@SLOW
@pytest.mark.parametrize("room", [1, 100, 600])
def test_no_disk_left(here, room):
    arguments = ("run_dir=run", "checkpoint.every=4")
    output = complaint(real(*arguments, cwd=here, preexec_fn=limited(room)))
    assert re.match("no space left to write run/|the checkpoint of step 4 could not be written to run/", output)
    assert "resume=true" in output
    assert not list(here.rglob("step-*"))
    ended = in_process(*arguments, "resume=true")
    assert (ended.code, ended.err) == (0, "")
    trained("checkpoint.every=4", run_dir="whole")
    assert rows(here / "run") == rows(here / "whole")
    assert manifest(here / "run")["status"] == "finished"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(here):
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        output = complaint(in_process("run_dir=disk/run"))  # room for two checkpoints, not for a third beside them
        assert "the checkpoint of step 6 could not be written to disk/run/checkpoints" in output
        assert manifest(disk / "run")["status"] == "failed"
        subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
        trained(run_dir="disk/run", resume=True)
        trained(run_dir="whole")
        assert rows(disk / "run") == rows(here / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_loss_that_turns_nan_is_a_result(here):
    arguments = ("run_dir=run", "optimizer=sgd", "optimizer.lr=1e9", "grad_clip=null")
    ended = in_process(*arguments)
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.splitlines()[-1] == "run  diverged"
    result = manifest(here / "run")
    assert result["status"] == "diverged"
    assert re.match(r"the loss or its gradient was not finite at step \d", result["error"])
    assert rows(here / "run")[-1]["train/loss"] is None
    before = contents(here / "run")
    assert in_process(*arguments, "resume=true") == (0, "run is diverged already\n", "")
    assert contents(here / "run") == before


def test_the_traceback_can_be_had(here, monkeypatch):
    monkeypatch.setenv("HALFSTEP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        in_process("steps=0")
