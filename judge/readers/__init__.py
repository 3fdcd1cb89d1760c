"""Reads what other trainers logged: a file, a folder or W&B's address becomes logs in the trainer's own names.

    for log in read("runs/adamw-0.log"):
        print(log.name, log.source.format, len(log.lines))

A reader of a format is one file here with two functions: `recognises(path)` and `read(path)`. It returns what was
logged and guesses nothing; judge/readers/units.py gives columns their meaning, judge/readers/series.py takes a log
apart into runs, and judge/readers/adoption.py writes run folders.
"""

from collections.abc import Sequence
from pathlib import Path

from conventions.paths import expanded
from judge.readers import events, mlruns, stdout, table, trainer_state, wandb_api, wandb_file
from judge.readers.log import Log

READERS = (events, wandb_file, trainer_state, mlruns, table, stdout)  # the last takes any text
IGNORED = {".md", ".py", ".png", ".pdf", ".sh", ".yaml", ".yml", ".ipynb", ".html", ".pt", ".safetensors", ".zip"}


def read(source: str) -> list[Log]:
    """Return the logs in a source: a file, a folder with files anywhere below it, or wandb:ENTITY/PROJECT[/RUN].

    Raises ValueError, a sentence with the file and the line, where something is broken or nothing is recognised.
    """
    if source.startswith(wandb_api.PREFIX):
        return wandb_api.read(source)
    path = expanded(source, "source")
    if not path.exists():
        raise ValueError(f"{source} is not there: give a file, a folder, or wandb:ENTITY/PROJECT")
    logs = [log for each in _files(path) for log in _read_file(each, alone=path.is_file())]
    if not logs:
        raise ValueError(f"{source} holds nothing that reads as a log: known are {', '.join(formats())}")
    return logs


def formats() -> Sequence[str]:
    """Return the names of all formats."""
    return [*(reader.FORMAT for reader in READERS[:-1]), "W&B (wandb:...)", *(each.name for each in stdout.FORMATS)]


def _files(path: Path) -> list[Path]:
    """Return the path itself, or every file below it that can be a log; an MLflow store is read as a whole."""
    if path.is_file() or mlruns.recognises(path):
        return [path]
    stores = [each for each in sorted(path.rglob("mlruns")) if mlruns.recognises(each)]
    within = [each for each in sorted(path.rglob("*")) if each.is_file() and each.suffix.lower() not in IGNORED]
    return stores + [each for each in within if not any(store in each.parents for store in stores)]


def _read_file(path: Path, alone: bool) -> list[Log]:
    """Read the logs of one file. alone: it was named by itself, so that not to recognise it is an error."""
    reader = next((each for each in READERS if each.recognises(path)), None)
    if reader is None and alone:
        raise ValueError(f"{path} is of no known format: known are {', '.join(formats())}")
    return reader.read(path) if reader else []
