"""What train.py itself takes beside training: the time to the first update, cold and warm, and input and logging."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conventions.config_keys import CONFIGS
from harness.pass_sizes import CUDA_TOKENS
from harness.process import die_with_parent
from scripts.suite.beside import PLAIN
from scripts.suite.folder import Deadline, Folder
from scripts.suite.throughput import keep

SYSTEM = "train.py"  # its name among the failures
LOGGED = 10  # updates between rows, as in configs/train.yaml
UPDATES = 3 * LOGGED + 1
POLL = 0.005  # seconds


def left(model: str, book: dict[str, Any]) -> bool:
    failed = any((f["model"], f["system"]) == (model, SYSTEM) for f in book["failures"])
    return len(book["start"]) < 2 and not failed


def add(
    book: dict[str, Any], folder: Folder, deadline: Deadline, say: Callable[[str], None], scratch: Path, model: str,
    tokens: int, context: int, device: str, commit: str | None,
) -> None:  # fmt: skip
    """Each row is kept at once. Where the warm one is lacking the next call takes both, for the cache is gone."""
    say(f"{model}: train.py, from the command to the first update")
    try:
        for row in measure_start(model, tokens, context, device, scratch, deadline):
            others = [each for each in book["start"] if each["cache"] != row["cache"]]
            book["start"] = [*others, {**row, "commit": commit}]
            keep(book, folder)
    except TimeoutError:
        say("no time is left for it: the same command goes on")
    except ValueError as error:
        say(str(error))
        book["failures"].append(
            {"model": model, "system": SYSTEM, "variant": PLAIN, "error": str(error), "commit": commit}
        )
        keep(book, folder)


def measure_start(
    model: str, tokens: int, context: int, device: str, scratch: Path, deadline: Deadline
) -> Iterator[dict[str, Any]]:
    """Rows of a run with an empty compiler cache, and of the same run again, each as it is there.

    The first update is over when its row is in metrics.jsonl, with the first evaluation before it. The shares are of
    the counted seconds, from row to row, after the first LOGGED updates.

    Raises TimeoutError where the deadline comes first, ValueError where a program does not run.
    """
    evaluated = min(tokens, CUDA_TOKENS)  # whole passes, as configs/train.yaml evaluates
    data = [f"tokens={8 * tokens}", f"val_tokens={2 * evaluated}", f"dir={scratch / 'data'}"]
    made = subprocess.run([sys.executable, "-m", "scripts.prepare", "synthetic", *data], cwd=CONFIGS.parent, text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    if made.returncode:
        raise ValueError(f"scripts.prepare did not run: {_last(made.stderr)}")
    line = [
        sys.executable, str(CONFIGS.parent / "train.py"), f"model={model}", "data=synthetic", "tracker=none",
        *(f"data.{key}" for key in data),
        f"batch.tokens={tokens}", f"context={context}", f"device={device}", f"eval.tokens={evaluated}", "study=start",
        "eval.every=1000000", "checkpoint.every=null", f"log.every={LOGGED}", f"steps={UPDATES}",
    ]  # fmt: skip
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled"), "TRITON_CACHE_DIR": str(scratch / "triton")}
    environment = {**os.environ, **caches}
    for cache, last in [("cold", 0), ("warm", UPDATES)]:
        place = scratch / cache
        seconds = _train([*line, f"run_dir={place}"], place, environment, last, deadline)
        rows = _rows(place)
        row = {"model": model, "cache": cache, "first_update_seconds": seconds,
               "compile_seconds": rows[0].get("seconds/compile")}  # fmt: skip
        settled = [each for each in rows if each["step"] >= LOGGED and each["step"] % LOGGED == 0]
        if len(settled) > 1:
            total, data_wait, log = (
                settled[-1].get(f"seconds/{part}", 0) - settled[0].get(f"seconds/{part}", 0)
                for part in ("total", "data", "log")
            )
            row |= {"input_share": data_wait / total, "log_share": log / total}
        yield row


def _train(line: list[str], place: Path, environment: dict[str, str], last: int, deadline: Deadline) -> float:
    """Run it until the row of step `last` is there; seconds from the command to its first row."""
    begun, first = time.perf_counter(), None
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(
            line,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,
            preexec_fn=die_with_parent,
        ) as process,
    ):
        try:
            while process.poll() is None:
                if first is None and _rows(place):
                    first = time.perf_counter() - begun
                if first is not None and _rows(place)[-1]["step"] >= last:
                    break
                if deadline.left <= 0:
                    raise TimeoutError
                time.sleep(POLL)
            if process.returncode:
                words.seek(0)
                raise ValueError(f"train.py did not run: {_last(words.read())}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return time.perf_counter() - begun if first is None else first


def _last(words: str) -> str:
    """Where there is a traceback, its last line says what is wrong."""
    return next(reversed(words.strip().splitlines()), "it said nothing")[:300]


def _rows(place: Path) -> list[dict[str, Any]]:
    """The whole lines of its metrics.jsonl."""
    try:
        text = (place / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(row) for row in text[: text.rfind("\n") + 1].splitlines()]
