"""`python train.py ...` for tests: in a process of its own, 10 times faster in this one, or as `train.main` alone."""

import contextlib
import copy
import functools
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import train
from conventions.config_keys import CONFIGS
from harness.command_line import command
from harness.sweep.jobs import Outcome
from harness.words import OPEN_SECTION

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("model=gpt2_pico", "steps=6", "batch.tokens=512", "eval.tokens=512", "eval.every=3", "log.every=1",
         "checkpoint.every=2")  # fmt: skip
THREADS = 1  # as in environment()
# What differs between two runs of the same bits.
TIMED = ("seconds/", "throughput/", "memory/peak")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def in_process(*arguments: str) -> Ended:
    """The command with its arguments (a small run, unless they say otherwise), in the current folder."""
    out, err, code, threads = io.StringIO(), io.StringIO(), 0, torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["train.py", *SMALL, *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setattr(Outcome, "failed", 0)
        try:
            command(train.main)()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            GlobalHydra.instance().clear()
            torch.set_num_threads(threads)
    return Ended(code, out.getvalue(), err.getvalue())


@functools.cache
def composed(*arguments: str) -> dict[str, Any]:
    """The config of a small run, unless they say otherwise. It is shared: do not change it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [OPEN_SECTION.sub(r"++\1", each) for each in [*SMALL, *arguments]])
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def trained(*arguments: str, run_dir: str | None = None, resume: bool = False) -> str:
    """How the run ended. It is `train.main` alone, without the command line: twice as fast, and errors are raised."""
    assert not any(key.startswith(("run_dir=", "resume=")) for key in arguments), "give them by keyword"
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    values = {**copy.deepcopy(composed(*arguments)), "run_dir": run_dir, "resume": resume}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return train.main(values)
    finally:
        torch.set_num_threads(threads)


def interrupted(*arguments: str, at: int, **where: Any) -> None:
    """Train, stopped by Ctrl-C where the run asks for the batch of step `at`."""

    def batch(loader: train.Loader, step: int) -> Any:
        if step == at:
            raise KeyboardInterrupt
        return draw(loader, step)

    draw = train.Loader.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Loader, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            trained(*arguments, **where)


def environment(**entries: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **entries}


def start(*arguments: str, cwd: Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """The real command, begun."""
    line = [sys.executable, str(ROOT / "train.py"), *SMALL, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heed_interrupts}
    return subprocess.Popen(line, cwd=cwd, env=env or environment(), **{**pipes, **options})


def heed_interrupts() -> None:
    """A shell starts what it puts in the background deaf to SIGINT, and so would be every run that we start there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(process: subprocess.Popen[str], timeout: float = 300) -> Ended:
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def real(*arguments: str, cwd: Path, **options: Any) -> Ended:
    """The real command, to its end."""
    return end(start(*arguments, cwd=cwd, **options))


def complaint(ended: Ended) -> str:
    """The one sentence that bad input ends in; fails where it ended in anything else."""
    assert ended.code == 2, ended
    # A corpus that is being prepared says so: that is no complaint.
    lines = [line for line in ended.err.splitlines() if not line.startswith("preparing ")]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("halfstep: "), ended.err
    assert "Traceback" not in ended.out + ended.err
    return lines[0].removeprefix("halfstep: ")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without what the clock and the machine's load decide."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: v for key, v in json.loads(line).items() if not key.startswith(TIMED)} for line in lines]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time of change and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
