"""Reads MLflow's stores: its folder of text files (mlruns) and its database (mlflow.db). MLflow is not needed."""

import hashlib
import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import yaml

from judge.readers.log import Log, Source, by_step, source_of

FORMAT = "MLflow's folder or mlflow.db"


def recognises(path: Path) -> bool:
    """Whether it is a database of MLflow, or a folder with runs that hold metrics."""
    if path.is_file():
        return path.suffix == ".db" and path.read_bytes()[:15] == b"SQLite format 3"
    return path.is_dir() and bool(_runs(path))


def read(path: Path) -> list[Log]:
    """A log for each run. `wall_time` is in seconds since its first value: everything is in it."""
    logs = [_of_folder(each) for each in _runs(path)] if path.is_dir() else list(_of_database(path))
    if not logs:
        raise ValueError(f"{path} holds no run with a metric")
    return logs


def _runs(path: Path) -> list[Path]:
    """The folders of runs: the path itself, or EXPERIMENT/RUN or RUN below it."""
    found = [path, *sorted(path.glob("*")), *sorted(path.glob("*/*"))]
    return [each for each in found if (each / "meta.yaml").is_file() and (each / "metrics").is_dir()]


def _of_folder(run: Path) -> Log:
    config = {each.name: each.read_text().strip() for each in sorted((run / "params").glob("*")) if each.is_file()}
    digest, values = hashlib.sha256(), []
    for file in sorted(each for each in (run / "metrics").rglob("*") if each.is_file()):
        digest.update(file.read_bytes())
        key = file.relative_to(run / "metrics").as_posix()
        for number, text in enumerate(file.read_text().splitlines(), 1):
            try:
                moment, value, step = text.split(" ")[:3]
                values.append((int(moment) / 1000, int(step), key, float(value)))
            except ValueError:
                why = "is not `milliseconds value step`, as MLflow writes it"
                raise ValueError(f"{file}, line {number}, {why}: {text[:60]!r}") from None
    try:
        meta = yaml.safe_load((run / "meta.yaml").read_text())
        name = meta.get("run_name") if isinstance(meta, dict) else None
    except yaml.YAMLError:
        raise ValueError(f"{run / 'meta.yaml'} is broken: restore it, or leave the run out") from None
    return Log(
        str(name or run.name),
        Source(str(run), FORMAT, digest.hexdigest()),
        by_step(values),
        {},
        config,
    )


def _of_database(path: Path) -> Iterable[Log]:
    source = source_of(path, FORMAT)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            runs = "select run_uuid, name from runs where lifecycle_stage != 'deleted' order by start_time, run_uuid"
            what = "select timestamp / 1000.0, step, key, value, is_nan from metrics where run_uuid = ?"
            for key, name in base.execute(runs).fetchall():
                found = base.execute(f"{what} order by timestamp, step", (key,)).fetchall()
                values = [(*event, math.nan if is_nan else value) for *event, value, is_nan in found]
                config = dict(base.execute("select key, value from params where run_uuid = ?", (key,)).fetchall())
                if values:
                    yield Log(str(name or key), source, by_step(values), {}, config)
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no database of MLflow ({error})") from None
