"""Sweeps on several processes: the local queue, SLURM's sentences, and the table that watches them."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.sweep import local, slurm
from harness.sweep.jobs import Job, outcomes
from harness.sweep.local import LocalQueue
from harness.sweep.process import JobProcess
from harness.sweep.watch import LiveTable, RunReader, RunRow, row_of, tally
from tests.command import ROOT, SMALL, complaint, end, in_process, manifest, rows, start, trained
from tests.study import write_run

LOCAL = ("-m", "launcher=local", "launcher.threads=1", "study=two")


def recorded(here: Path) -> dict[int, dict]:
    (folder,) = here.glob("results/runs/two/.sweeps/*")
    return outcomes(folder)


@pytest.mark.slow
def test_a_queue_over_this_machine(here):
    """Three jobs on two slots: one fails, and says why and where; the others are bit for bit what they are alone."""
    ended = in_process(*LOCAL, "launcher.jobs=2", "seed=0,1,-1")
    assert ended.code == 2
    assert {number: row["status"] for number, row in recorded(here).items()} == {
        0: "finished",
        1: "finished",
        2: "failed",
    }
    (log,) = here.glob("results/runs/two/.sweeps/*/2.log")
    wrong = "seed must be between 0 and 2^32 - 1, not -1"
    assert ended.err.splitlines() == [
        f"halfstep: job 2 failed: {wrong} ({log.relative_to(here)})",
        f"halfstep: 1 of the sweep's jobs failed: {log.relative_to(here).parent / 'jobs.jsonl'}",
    ]
    assert wrong in log.read_text()
    assert ended.out.splitlines()[0] == "0: seed=0  running"
    trained("seed=0", run_dir="alone")
    (run,) = here.glob("results/runs/two/*-s0-*")
    assert f"0: seed=0  finished  step 6/6  loss {rows(run)[-1]['val/loss']:.4f}" in ended.out.splitlines()
    assert rows(run) == rows(here / "alone")
    assert manifest(run)["device"]["threads"] == 1


@pytest.mark.slow
def test_a_job_out_of_time_is_stopped_and_the_sweep_goes_on(here):
    ended = in_process(*LOCAL, "launcher.jobs=1", "launcher.timeout=0.04", "steps=1000000,2000000")
    assert ended.code == 2
    wanted = ("cut", "after 0.04 minutes, by launcher.timeout")
    assert {number: (row["status"], row["error"]) for number, row in recorded(here).items()} == {0: wanted, 1: wanted}
    expected = ended.err.splitlines()
    assert expected[1].startswith(f"halfstep: job 1 was cut off: {wanted[1]}; resume=true goes on with it (results/")
    assert expected[2].startswith("halfstep: 2 of the sweep's jobs cut off: ")


@pytest.mark.slow
def test_an_interrupted_queue_stops_its_jobs(here):
    launcher = start(*LOCAL, "launcher.jobs=1", "steps=1000000", "seed=0,1", cwd=here)
    try:
        (run,) = wait_for(lambda: list(here.glob("results/runs/two/*/metrics.jsonl")))
        launcher.send_signal(signal.SIGINT)
        ended = end(launcher, 60)
    finally:
        launcher.kill()
    assert ended.code == 130
    assert ended.err.strip().startswith("halfstep: interrupted; the same command with resume=true goes on")
    assert {row["job"]: row["status"] for row in recorded(here).values()} == {0: "cut"}
    assert RunReader(run.parent).read().status == "cut"  # nobody holds its lock


@pytest.mark.slow
def test_a_killed_queue_takes_its_jobs_along(here):
    """The same sweep with resume=true then ends as if nothing had been."""
    small = ("launcher.jobs=2", "seed=0,1", "steps=100", "eval.every=50")
    launcher = start(*LOCAL, *small, cwd=here)
    runs = wait_for(lambda: list(here.glob("results/runs/two/*/checkpoints/step-*")), 2)
    launcher.kill()
    launcher.communicate()
    assert wait_for(lambda: {RunReader(path.parents[1]).read().status for path in runs} == {"cut"})
    assert in_process(*LOCAL, *small, "resume=true").code == 0
    assert in_process("-m", *small[1:], "study=alone").code == 0
    for seed in (0, 1):
        (run,), (alone,) = (here.glob(f"results/runs/{study}/*-s{seed}-*") for study in ("two", "alone"))
        assert manifest(run)["status"] == "finished"
        assert [row.get("val/loss") for row in rows(run)] == [row.get("val/loss") for row in rows(alone)]


@pytest.mark.slow
def test_a_run_of_several_ranks_as_a_job(here):
    """As SLURM's jobs with several GPUs are: torchrun ends with 1 whatever happened, and the job knows better."""
    few = [*SMALL, "device=cpu"]
    job = Job(here / "sweep", 0, [*few, "run_dir=whole"], here / "whole")
    for _ in range(3):  # as SLURM's guard would: gloo now and then aborts a rank's exit while another still writes
        whole = JobProcess(job, {"OMP_NUM_THREADS": "1"}, ranks=2, resume=True)
        assert wait_for(whole.ended)
        if whole.outcome()[0] != "cut":
            break
    assert whole.outcome() == ("finished", None)
    assert manifest(here / "whole")["ranks"] == 2

    job = Job(here / "sweep", 1, [*few, "steps=1000000", "run_dir=cut"], here / "cut")
    cut = JobProcess(job, {"OMP_NUM_THREADS": "1"}, ranks=2)
    assert wait_for(lambda: (here / "cut" / "checkpoints").exists())
    ranks = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"run_dir=cut" in path.read_bytes()]
    os.kill(max(int(path.parent.name) for path in ranks), signal.SIGKILL)
    assert wait_for(cut.ended)
    assert cut.outcome() == ("cut", "killed by SIGKILL")


def wait_for(result, count: int | None = None, seconds: float = 600):
    """What is found in the end; `seconds` bound only a wait for what never comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and (not (now := result()) or (count and len(now) < count)):
        time.sleep(0.05)
    return result()


def test_two_jobs_may_not_share_a_folder(here):
    for launcher in ("serial", "local"):
        output = complaint(in_process("-m", f"launcher={launcher}", "seed=0,1", "run_dir=one"))
        assert output.startswith("run_dir=one is one folder for several jobs of the sweep: leave run_dir out")
        output = complaint(in_process("-m", f"launcher={launcher}", "checkpoint.every=2,3"))
        assert output.startswith("jobs 0 and 1 of the sweep are one run, results/runs/default/gpt2_pico-")
    assert not list(here.rglob("manifest.json"))
    assert in_process("-m", "seed=0,1", "steps=1", "run_dir=runs/${seed}").code == 0
    assert {path.name for path in (here / "runs").iterdir()} == {"0", "1"}


@pytest.mark.parametrize(
    ("argument", "output"),
    [
        ("launcher.jobs=0", "launcher.jobs must be at least 1, not 0; auto chooses"),
        ("launcher.threads=none", "launcher.threads must be an integer or auto, not 'none'"),
        ("launcher.timeout=-1", "launcher.timeout must be above 0 minutes, not -1.0; null sets none"),
        ("launcher.workers=2", "launcher.workers is no key of the config: did you mean launcher"),
    ],
)
def test_wrong_keys_of_the_queue(here, argument, output):
    assert complaint(in_process("-m", "launcher=local", argument)).startswith(output)
    assert not list(here.rglob("*.log"))


def test_the_machine_is_dealt_out(monkeypatch):
    jobs = [Job(Path("sweep"), number, []) for number in range(5)]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 12)
    monkeypatch.setattr(local, "visible_gpus", lambda: [])
    assert (LocalQueue(jobs, "auto").slots, LocalQueue(jobs, "auto").environment(0)) == (5, {"OMP_NUM_THREADS": "2"})
    assert LocalQueue(jobs, "auto", jobs=3).environment(0) == {"OMP_NUM_THREADS": "4"}
    assert LocalQueue(jobs, "auto", jobs=3, threads=1).environment(0) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(local, "visible_gpus", lambda: ["2", "5"])
    assert LocalQueue(jobs, "cpu").slots == 5
    queue = LocalQueue(jobs, "auto")
    assert queue.slots == 2
    assert [queue.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["2", "5"]
    shared = LocalQueue(jobs, "auto", jobs=4)
    assert [shared.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["2", "5", "2", "5"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert LocalQueue(jobs, "auto").threads == "3"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        LocalQueue(jobs, "auto")


def test_no_slurm_here(here, monkeypatch):
    monkeypatch.setenv("PATH", str(here))
    output = complaint(in_process("-m", "launcher=slurm", "seed=0,1"))
    assert output.startswith("launcher=slurm: there is no sbatch on the PATH of this machine")
    assert not list(here.rglob("slurm"))
    assert complaint(in_process("launcher=slurm")) == "launcher=slurm launches sweeps: add -m"
    output = complaint(in_process("-m", "launcher=slurm", "launcher.gpus=-1"))
    assert output == "launcher.gpus must be at least 0, not -1"


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_what_slurm_says(here, monkeypatch):
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    program(here, "squeue", "echo '7|0|RUNNING'; echo '7|11|PENDING'; echo '8|N/A|FAILED'")
    assert slurm.queue_states("7") == {"7_0": "RUNNING", "7_11": "PENDING", "8": "FAILED"}
    program(here, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.queue_states("7") == {}
    program(here, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm.queue_states("7") is None  # not that its jobs are gone

    program(here, "srun", "exit 0")
    program(here, "sbatch", "echo 'sbatch: error: invalid partition specified: fast' >&2; exit 1")
    output = complaint(in_process("-m", "launcher=slurm", "launcher.partition=fast"))
    assert output.startswith(
        "launcher=slurm: sbatch refuses the jobs (sbatch: error: invalid partition specified: fast)"
    )


def grow(run: Path, *entries: dict, torn: str = "") -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps({"schema": 1, **entry}) + "\n" for entry in entries) + torn)


def test_a_run_is_read_as_it_grows(tmp_path):
    folder = write_run(tmp_path, steps=1000, until=0, status="running")
    (folder / "metrics.jsonl").unlink()
    reader = RunReader(folder)
    assert reader.read().step == 0
    grow(folder, {"step": 100, "val/loss": 3.0}, {"step": 110, "val/loss": None, "train/loss": 2.9}, torn='{"step": 12')
    run = reader.read()
    assert (run.step, run.newest.get("val/loss"), run.newest.get("train/loss"), run.status) == (110, 3.0, 2.9, "cut")
    grow(folder, torn='0, "val/loss": 2.5}\n')
    assert (reader.read().step, reader.read().newest.get("val/loss")) == (120, 2.5)
    (folder / ".new").write_text('{"schema": 1, "step": 90}\n')
    os.replace(folder / ".new", folder / "metrics.jsonl")  # as a run that goes on from a checkpoint drops rows
    assert (reader.read().step, reader.read().newest.get("val/loss")) == (90, None)
    assert RunReader(tmp_path / "none").read() is None


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    folder = write_run(tmp_path, steps=1000, until=250, status="running", seconds_per_step=0.1)
    with open(folder / "run.lock", "w") as lock, LiveTable(Console(file=io.StringIO())) as watch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = RunReader(folder).read()
        watch.show(lambda: [row_of("a", run), RunRow("b", "queued")], now=True)
        watch.show(lambda: [row_of("a", run), RunRow("b", "queued")], now=True)  # nothing new
    loss = f"{run.newest.get('val/loss'):.4f}"
    assert run.newest.get("throughput/tokens_per_second") is None
    assert capsys.readouterr().out == f"a  running  step 250/1,000  loss {loss}  84.0 s left\n"
    watch.show(lambda: [RunRow("a", "finished", 1000, 1000, 2.5), RunRow("b", "failed")], now=True)
    assert capsys.readouterr().out == "a  finished  step 1,000/1,000  loss 2.5000\nb  failed\n"


def test_a_table_where_there_is_one():
    """What went wrong and what runs is seen first, where there is no room for all."""
    screen = io.StringIO()
    shown = [RunRow(f"job{i}", "finished", 9, 9, 2.0) for i in range(30)]
    shown += [RunRow("bad", "failed"), RunRow("busy", "running", 5, 9, 3.0, 12345.0, 61.0)]
    with LiveTable(Console(file=screen, force_terminal=True, width=100, height=12)) as watch:
        watch.show(lambda: shown, now=True)
    text = screen.getvalue()
    assert "busy" in text
    assert "12,345" in text
    assert "bad" in text
    assert "job0" in text
    assert "job29" not in text
    assert tally(shown) == "1 failed, 1 running, 30 finished"
    assert tally(shown) in text


def test_launching_needs_no_torch():
    """But to count GPUs: a sweep that is refused is refused at once, and a table costs nothing."""
    names = "harness.sweep.launcher, harness.sweep.watch, harness.sweep.process, hydra_plugins.halfstep"
    code = f"import sys, {names}; print([name for name in ('torch', 'submitit') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
