"""A program in a process of its own: its log, how it ends, what happens to it when its parent is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import process as process_module
from harness.process import Conversation, Process

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + SLEEP
# Starts another process, says which, and waits for ever.
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True); " + SLEEP


def python(program: str, log: Path, **options) -> Process:
    return Process([sys.executable, "-c", program], log, **options)


def started(program: str, log: Path) -> Process:
    process = python(program, log)
    while "up" not in process.output():
        time.sleep(0.01)
    return process


def test_it_ends_with_its_exit_code_and_its_last_words(tmp_path):
    log = tmp_path / "there" / "log"
    words = {
        "print('one'); print('halfstep: steps must be above 0'); print('later')": "steps must be above 0",
        "print('one'); print('ValueError: two'); print('three')": "ValueError: two",
        "print('one'); print(); print('two ')": "two",
        "": "ended with exit code 3",
    }
    for program, last in words.items():
        ending = python(f"{program}\nimport sys; sys.exit(3)", log).wait()
        assert (ending.code, ending.signal, ending.timed_out, ending.last_words) == (3, None, False, last)
    assert log.read_text().count("one\n") == 3  # the log of all of them
    silent = Process([sys.executable, "-c", "print('seen')"])
    assert silent.wait().last_words == "ended with exit code 0"
    assert silent.output() == ""


def test_its_environment_and_folder(tmp_path):
    program = "import os; print(os.environ['OMP_NUM_THREADS'], os.getcwd(), os.getsid(0) == os.getpid())"
    process = python(program, tmp_path / "log", environment={"OMP_NUM_THREADS": "7"}, folder=tmp_path)
    assert process.wait().last_words == f"7 {tmp_path.resolve()} True"


def test_what_takes_too_long_is_asked_to_stop_and_then_killed(tmp_path):
    ending = started(SLEEP, tmp_path / "a").wait(timeout=0)
    assert ending.timed_out
    assert (ending.code, ending.signal, ending.last_words) == (None, "SIGINT", "KeyboardInterrupt")
    process = started(DEAF, tmp_path / "b")
    assert not process.ended()
    with pytest.raises(RuntimeError, match="still runs"):
        process.ending()
    process.stop(grace=0.1)
    ending = process.ending()
    assert (ending.signal, ending.last_words) == ("SIGKILL", "up")


def test_what_has_done_its_work_may_not_linger(tmp_path, monkeypatch):
    monkeypatch.setattr(process_module, "GRACE", 0.0)
    process = started(SLEEP, tmp_path / "log")
    ending = process.wait(done=lambda: "up" in process.output())
    assert (ending.signal, ending.timed_out) == ("SIGKILL", False)


def test_the_end_of_the_block_kills_what_it_started_too(tmp_path):
    with python(PARENT, tmp_path / "log") as process:
        child = first_number(process)
        assert alive(child)
    assert process.ended()
    wait_until_dead(child)


def test_it_heeds_an_interrupt_where_its_parent_does_not(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = started(SLEEP, tmp_path / "log")
        process.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.ending().signal == "SIGINT"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl")
def test_it_dies_with_its_parent(tmp_path):
    program = f"""
import sys
from harness.process import Conversation, Process
process = Process([sys.executable, "-c", "import os; print(os.getpid(), flush=True); {SLEEP}"])
process.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    wait_until_dead(child)


def first_number(process: Process) -> int:
    while not (result := [line for line in process.output().splitlines() if line.isdigit()]):
        time.sleep(0.01)
    return int(result[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int) -> None:
    while alive(pid):
        time.sleep(0.01)


WORKER = """
import os, time
from harness.process import answer
def reply(question):
    print("printed besides")
    if question == "die":
        os._exit(3)
    time.sleep(question.get("sleep", 0))
    return {"twice": 2 * question["number"]}
answer(reply)
"""


def test_a_conversation_answers_in_order_and_prints_to_its_log(tmp_path):
    with Conversation([sys.executable, "-c", WORKER], tmp_path / "log") as worker:
        for number in (1, 2):
            worker.ask({"number": number})
        assert [worker.hear(60), worker.hear(60)] == [{"twice": 2}, {"twice": 4}]
        worker.ask({"number": 1, "sleep": 600})
        with pytest.raises(TimeoutError):
            worker.hear(0.01)
    assert worker.ended()
    assert worker.output() == "printed besides\n" * 3


def test_who_dies_in_a_conversation_leaves_its_last_words(tmp_path):
    with Conversation([sys.executable, "-c", WORKER], tmp_path / "log") as worker:
        worker.ask("die")
        with pytest.raises(ValueError, match="printed besides"):
            worker.hear(60)
        worker.ask("again")
        with pytest.raises(ValueError, match="printed besides"):
            worker.hear(60)
