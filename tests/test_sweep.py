"""Sweeps: a job that fails is recorded and the next one goes on."""

import json
from datetime import datetime

import train
from harness.sweep import jobs
from tests.command import complaint, in_process, manifest


def launcher(folder):
    """A launcher of one's own, found through Hydra's search path."""
    (folder / "more" / "launcher").mkdir(parents=True)
    (folder / "more" / "launcher" / "elsewhere.yaml").write_text("name: elsewhere\n")
    return f"hydra.searchpath=[file://{folder / 'more'}]", "launcher=elsewhere"


def test_a_launcher_without_a_sweep(here):
    assert complaint(in_process(*launcher(here))) == "launcher=elsewhere launches sweeps: add -m"


def test_a_sweep_goes_on_after_a_job_that_failed(here):
    ended = in_process("-m", "optimizer.lr=-1,1e-3", "study=two", "steps=2")
    (jobs,) = here.glob("results/runs/two/.sweeps/*/jobs.jsonl")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert ended.err.splitlines() == [
        "halfstep: job 0 failed: optimizer.lr must be at least 0, not -1.0",
        f"halfstep: 1 of the sweep's jobs failed: {jobs.relative_to(here)}",
    ]
    failed, finished = (json.loads(line) for line in jobs.read_text().splitlines())
    assert (failed["status"], failed["error"]) == ("failed", "optimizer.lr must be at least 0, not -1.0")
    assert "++optimizer.lr=-1" in failed["overrides"]
    assert (finished["status"], finished["error"]) == ("finished", None)
    (run,) = here.glob("results/runs/two/gpt2_pico-*")
    assert manifest(run)["status"] == "finished"


def test_sweeps_begun_in_one_second_have_a_folder_each(here, monkeypatch):
    """They shared it, and the sweep whose job failed ended with exit code 0."""

    class OneSecond(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1)

    monkeypatch.setattr(jobs, "datetime", OneSecond)
    assert [in_process("-m", f"optimizer.lr={lr}", "study=two", "steps=1").code for lr in ("-1", "1e-3")] == [2, 0]
    logs = sorted(path.read_text() for path in here.glob("results/runs/two/.sweeps/2026-01-01_*/jobs.jsonl"))
    assert [json.loads(log)["status"] for log in logs] == ["failed", "finished"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert jobs.sweep_name() == jobs.sweep_name()


def test_a_sweep_outlives_a_bug(here, monkeypatch):
    steps = iter([RuntimeError("a bug")])

    def buggy(*arguments, **keywords):
        for error in steps:
            raise error
        return loss(*arguments, **keywords)

    loss = train.evaluate
    monkeypatch.setattr(train, "evaluate", buggy)
    ended = in_process("-m", "seed=0,1", "study=two", "steps=1")
    assert ended.code == 2
    assert "Traceback" in ended.err  # a bug is shown for what it is
    assert "halfstep: job 0 failed: a bug" in ended.err
    result = {run.name.split("-")[3]: manifest(run) for run in here.glob("results/runs/two/gpt2_pico-*")}
    assert (result["s0"]["status"], result["s0"]["error"]) == ("failed", "RuntimeError('a bug')")
    assert result["s1"]["status"] == "finished"


def test_a_sweep_with_a_wrong_name_does_nothing(here):
    assert "optimizer=adamm is not there" in complaint(in_process("-m", "optimizer=adamw,adamm"))
    assert not list(here.rglob("manifest.json"))
