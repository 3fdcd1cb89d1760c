"""Reads tables: CSV, JSON lines, parquet, the CSV that W&B's pages export, and AlgoPerf's measurements.csv."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from conventions.config_keys import flatten
from conventions.json_text import parse_json
from judge.readers.log import Line, Log, Source, Value, optional, plain_suffix, read_text, source_of

FORMAT = "CSV, JSON lines or parquet (--map)"
SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".parquet": ""}
BOUNDS = ("__MIN", "__MAX")  # beside each column of W&B's export: the range of what was averaged into a value
ALGOPERF = {"step": "global_step", "val/loss": "validation/loss", "seconds": "accumulated_submission_time"}


def recognises(path: Path) -> bool:
    return path.is_file() and plain_suffix(path) in SUFFIXES


def read(path: Path) -> list[Log]:
    """Return one log, or one for each run of W&B's export."""
    source = source_of(path, plain_suffix(path)[1:])
    lines = read_table(path)
    if not lines:
        raise ValueError(f"{path} has no rows: export it again")
    columns = list(dict.fromkeys(column for line in lines for column in line.values))
    if any(column.endswith(BOUNDS) for column in columns):
        return _exported(Source(source.path, "W&B's CSV", source.sha256), lines, columns)
    meaning: dict[str, str] = {}
    if {"global_step", "accumulated_submission_time"} <= set(columns):
        source = Source(source.path, "AlgoPerf", source.sha256)
        meaning = {quantity: column for quantity, column in ALGOPERF.items() if column in columns}
        if "val/loss" not in meaning and "validation/ppl" in columns:
            meaning["val/ppl"] = "validation/ppl"
    return [Log(str(path), source, lines, meaning)]


def read_table(path: Path) -> list[Line]:
    """Return the rows of a table, nested keys of JSON dotted; an empty cell is absent."""
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        parquet = optional("pyarrow.parquet", f"{path} is a parquet file, which needs pyarrow")
        try:
            rows = parquet.read_table(path).to_pylist()
        except Exception as error:  # pyarrow's own, of many kinds
            raise ValueError(
                f"{path} is no parquet file ({' '.join(str(error).split())[:80]}): copy it again"
            ) from None
        numbered = list(enumerate(rows, 1))
    elif SUFFIXES[suffix]:
        numbered = _csv_rows(path, SUFFIXES[suffix])
    else:
        numbered = _json_rows(path)
    return [Line(number, _present(row)) for number, row in numbered]


def _csv_rows(path: Path, delimiter: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise ValueError(f"{path}, line 1, has the column {twice[0]!r} twice: rename one of the two")
        rows = []
        for cells in reader:
            if cells and len(cells) != len(header):
                count = f"{len(cells)} cells under {len(header)} columns"
                raise ValueError(f"{path}, line {reader.line_num}, has {count}: mend or cut it there")
            if cells:
                rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}, is broken ({error}): export it again") from None
    return rows


def _json_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    texts = read_text(path).split("\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            row = parse_json(text)
        except ValueError as error:
            if number == len(texts) and rows:  # torn by a kill
                break
            raise ValueError(f"{path}, line {number}, is no JSON ({error}): mend or cut it there") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}, is {text.strip()[:40]!r}, not a row of named values")
        rows.append((number, row))
    return rows


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's numbers as floats where they are numbers already, its words as they are."""
    kept = {str(key): value for key, value in flatten(row).items() if value is not None and value != ""}
    return {key: value_of(value) for key, value in kept.items()}


def value_of(value: Any) -> Value:
    """Return a number as a float, anything else as a word."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _exported(source: Source, lines: list[Line], columns: list[str]) -> list[Log]:
    """Return one log for each run in the headers, `run - metric`, split at the last ` - `."""
    x = columns[0]
    runs: dict[str, dict[str, str]] = {}  # name: {column: metric}
    for column in columns[1:]:
        name, dash, metric = column.rpartition(" - ")
        if not column.endswith(BOUNDS):
            if not dash:
                raise ValueError(f"{source.path}, line 1: {column!r} is not `run - metric`, as W&B heads its columns")
            runs.setdefault(name, {})[column] = metric
    logs = []
    for name, metrics in runs.items():
        notes = ["W&B's pages export a sample of at most some hundred or thousand points: wandb:... reads all of them"]
        own = [
            Line(line.number, {x: line.values.get(x, ""), **held})
            for line in lines
            if (held := {metric: line.values[c] for c, metric in metrics.items() if c in line.values})
        ]
        if any(line.values.get(c + BOUNDS[0], v) != line.values.get(c + BOUNDS[1], v)
               for line in lines for c in metrics if (v := line.values.get(c)) is not None):  # fmt: skip
            notes.append("its values are means over several evaluations or runs (__MIN and __MAX differ)")
        if own:
            logs.append(Log(name, source, own, {}, {}, tuple(notes)))
    if not logs:
        raise ValueError(f"{source.path} has no value in any run's column: export it again")
    return logs
