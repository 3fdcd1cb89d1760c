"""A sweep within a call's time: what is told of runs that failed, of a process that died, and of the deadline."""

import sys
import time

import pytest

from scripts.suite import training

NAMES = {"a": "", "b": "", "c": ""}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program in place of train.py, in which `tell(job, status, error)` records an outcome."""

    def become(text):
        head = (
            "import json, os, signal, sys, time\n"
            "def tell(job, status, error=None):\n"
            f"    with open({str(tmp_path / 'jobs.jsonl')!r}, 'a') as file:\n"
            "        file.write(json.dumps({'job': job, 'status': status, 'error': error}) + '\\n')\n"
        )
        monkeypatch.setattr(training, "command", lambda *_: ([sys.executable, "-c", head + text], tmp_path))

    return become


def test_at_the_deadline_runs_are_interrupted_as_by_ctrl_c(program, tmp_path):
    program(
        "try:\n    tell(0, 'finished'); tell(1, 'failed', 'no memory'); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    open({str(tmp_path / 'told')!r}, 'w'); sys.exit(130)"
    )
    began = time.monotonic()
    assert training.attempt(NAMES, [], 1.0)[:2] == (False, {"b": "no memory"})
    assert (tmp_path / "told").is_file()
    assert time.monotonic() - began < 10


def test_who_is_deaf_to_the_deadline_is_killed(program, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 0.2)
    program("signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)")
    began = time.monotonic()
    assert training.attempt(NAMES, [], 1.0)[:2] == (False, {})
    assert time.monotonic() - began < 10


def test_who_has_done_all_and_does_not_leave_is_killed(program, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 0.2)
    program("for job in range(3):\n    tell(job, 'finished')\ntime.sleep(60)")
    began = time.monotonic()
    assert training.attempt(NAMES, [], 50)[:2] == (True, {})
    assert time.monotonic() - began < 10


def test_only_the_first_failure_of_a_process_counts(program):
    program("tell(0, 'finished'); tell(1, 'failed', 'an illegal memory access'); tell(2, 'failed', 'it'); sys.exit(2)")
    assert training.attempt(NAMES, [], 60)[:2] == (True, {"b": "an illegal memory access"})


def test_the_run_in_which_the_process_died_has_failed(program):
    program("tell(0, 'finished'); os.kill(os.getpid(), signal.SIGKILL)")
    assert training.attempt(NAMES, [], 60)[:2] == (True, {"b": "its process was killed by the signal SIGKILL"})


def test_a_command_that_begins_nothing_is_the_calls_own_error(program):
    program("sys.exit(1)")
    with pytest.raises(ValueError, match=r"train.py ended with 1, before any run"):
        training.attempt(NAMES, [], 60)


def test_updates_kept_are_those_of_the_newest_checkpoint(tmp_path):
    assert training.updates_kept(tmp_path) == 0
    for step in (250, 1000, 500):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".new-step-00001250").mkdir()
    assert training.updates_kept(tmp_path) == 1000


def test_what_is_of_use_only_together_fails_together(program):
    program("tell(0, 'finished'); tell(1, 'failed', 'no memory'); sys.exit(2)")
    with pytest.raises(ValueError, match=r"a run did not end: no memory; .*jobs.jsonl tells of every one"):
        training.train(NAMES, [], 60)
    program("tell(0, 'finished'); tell(1, 'finished'); tell(2, 'finished')")
    assert training.train(NAMES, [], 60)
