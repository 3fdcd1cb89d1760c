"""A unit of part optimizers: an optimizer's step on the shape of a whole model, by bench_optimizers in a process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from conventions.config_keys import CONFIGS
from harness.process import die_with_parent

Way = dict[str, str]  # keywords other than the YAML's
OURS = "halfstep"  # and what begins with it


class Unit(NamedTuple):
    """What rows are of."""

    model: str
    optimizer: str
    way: Way

    def about(self) -> dict[str, Any]:
        return self._asdict()


class Found(NamedTuple):
    """Rows, and which of the implementations do not run, with the error of each; cut: its time was over."""

    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    cut: bool = False


def done(unit: Unit, book: Mapping[str, Any]) -> bool:
    """Whether it was measured, or cannot be."""
    return any(unit.about().items() <= row.items() for row in [*book["rows"], *book["failures"]])


def measure(unit: Unit, vocabulary: int, context: int, rounds: int, device: str, references: Sequence[str],
            seconds: float) -> Found:  # fmt: skip
    """What it has measured when it ends, or its time does: both are the same file.

    references: NAME=PATH; with other keywords than its YAML's ours is alone, for they stand beside the plain one.

    Raises ValueError with its last words where it has failed before its first turn.
    """
    shape = yaml.safe_load((CONFIGS / "model" / f"{unit.model}.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        line = [
            sys.executable, "-m", "scripts.bench_optimizers", "--only", unit.optimizer, "--json", str(file),
            "--layers", str(shape["layers"]), "--width", str(shape["width"]), "--vocabulary", str(vocabulary),
            "--tokens", str(context), "--rounds", str(rounds), "--device", device,
        ]  # fmt: skip
        if unit.way:
            line += ["--alone"]
            line += [word for key, value in unit.way.items() for word in ("--set", f"{unit.optimizer}.{key}={value}")]
        else:
            given = [each for each in references if each.partition("=")[0] == unit.optimizer]
            line += [word for reference in given for word in ("--reference", reference)]
        cut = False
        with open(Path(scratch) / "words", "w+", encoding="utf-8") as said:  # no pipe, which its workers might hold
            process = subprocess.Popen(
                line, cwd=CONFIGS.parent, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip
            try:
                process.wait(max(1.0, seconds))
            except subprocess.TimeoutExpired:
                cut = True
            finally:
                with suppress(ProcessLookupError):  # the compiler's workers too
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said.seek(0)
            words = said.read()
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        error = (words.strip().splitlines() or ["it ended without a word"])[-1][:300]
        if process.returncode and not cut and not held.get("rows"):
            raise ValueError(error)
        failures = [{key: each[key] for key in ("implementation", "error")} for each in held.get("failures", [])]
        if process.returncode and not cut:  # the process itself
            failures.append({"implementation": OURS, "error": error})
        return Found(held.get("rows", []), failures, cut)
