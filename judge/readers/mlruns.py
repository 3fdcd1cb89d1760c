"""Reads MLflow's stores: its folder of text files (mlruns) and its database (mlflow.db). MLflow is not needed."""

import hashlib
import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from conventions.yaml_file import read_yaml
from judge.readers.log import Log, Source, by_step, read_text, source_of

FORMAT = "MLflow's folder or mlflow.db"
TYPES = [int, int, str, float]  # of a metric: milliseconds, step, name, value
STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}  # in the folder a number


def recognises(path: Path) -> bool:
    """Return whether a path is a database of MLflow, or a folder with runs that hold metrics."""
    if path.is_file():
        return path.suffix == ".db" and path.read_bytes()[:15] == b"SQLite format 3"
    return path.is_dir() and bool(_runs(path))


def read(path: Path) -> list[Log]:
    """Return a log for each run. `wall_time` is in seconds since its first value: everything is in it."""
    kept = [each for each in _runs(path) if _meta(each).get("lifecycle_stage") != "deleted"] if path.is_dir() else []
    logs = [_of_folder(each) for each in kept] if path.is_dir() else list(_of_database(path))
    if not logs:
        raise ValueError(f"{path} holds no run with a metric")
    return logs


def _runs(path: Path) -> list[Path]:
    """Return the folders of runs: the path itself, or EXPERIMENT/RUN or RUN below it."""
    folders = [path, *sorted(path.glob("*")), *sorted(path.glob("*/*"))]
    return [each for each in folders if (each / "meta.yaml").is_file() and (each / "metrics").is_dir()]


def _of_folder(run: Path) -> Log:
    config = {each.name: read_text(each).strip() for each in sorted((run / "params").glob("*")) if each.is_file()}
    digest, values = hashlib.sha256(), []
    for file in sorted(each for each in (run / "metrics").rglob("*") if each.is_file()):
        digest.update(file.read_bytes())
        key = file.relative_to(run / "metrics").as_posix()
        for number, text in enumerate(read_text(file).splitlines(), 1):
            try:
                moment, value, step = text.split(" ")[:3]
                values.append((int(moment) / 1000, float(int(step)), key, float(value)))
            except (ValueError, OverflowError):
                why = "is not `milliseconds value step`, as MLflow writes it"
                raise ValueError(f"{file}, line {number}, {why}: {text[:60]!r}") from None
    meta = _meta(run)
    status = STATUS.get(str(meta.get("status")), str(meta.get("status")))
    source = Source(str(run), FORMAT, digest.hexdigest())
    return Log(str(meta.get("run_name") or run.name), source, by_step(values), {}, config, cut=_cut(status))


def _meta(run: Path) -> dict[str, Any]:
    return read_yaml(run / "meta.yaml", "restore it, or leave the run out")


def _cut(status: str) -> str:
    return "" if status == "FINISHED" else f"MLflow calls it {status}"


def _of_database(path: Path) -> Iterable[Log]:
    source = source_of(path, FORMAT)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            runs = "select run_uuid, name, status from runs where lifecycle_stage != 'deleted'"
            what = "select timestamp, step, key, value, is_nan from metrics where run_uuid = ?"
            for run, name, status in base.execute(f"{runs} order by start_time, run_uuid").fetchall():
                rows = base.execute(f"{what} order by timestamp, step", (run,)).fetchall()
                if broken := [row for row in rows if [type(each) for each in row[:4]] != TYPES]:
                    why = "whose time, step, name and value are not numbers and a name"
                    raise ValueError(f"{path} holds a metric {why}: {broken[0]}; mend or delete it there")
                values = [(at / 1000, step, key, math.nan if is_nan else v) for at, step, key, v, is_nan in rows]
                config = dict(base.execute("select key, value from params where run_uuid = ?", (run,)).fetchall())
                if values:
                    yield Log(str(name or run), source, by_step(values), {}, config, cut=_cut(status))
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no database of MLflow ({error})") from None
