"""Makes the table of a public study from a checkout of its source: the same checkout gives the same bytes.

    cells, remarks = collect(read_study("track3"), Path("../modded-nanogpt"))

Logs are read as scripts.adopt reads them: several runs in one file, repeated tails and copies are told apart, and each
run is stated at the update that its arm's entry names. A Markdown file may hold a table with a row for each seed.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conventions.config_keys import flatten
from conventions.json_text import parse_json
from conventions.quantity import loss
from judge.public.cell import Cell
from judge.public.study import LoggedArm, Logs, PublicStudy, Tables
from judge.readers import read
from judge.readers.series import ForeignRun, cut, runs_in, without_repeats
from judge.readers.units import meaning_of

ROUNDING = 0.551e-4  # of a mean that is printed with five digits, and then with four


def collect(study: PublicStudy, checkout: Path) -> tuple[list[Cell], list[str]]:
    """Return the cells, and sentences on what is not as the source says.

    Raises ValueError if the checkout holds no such folder, or files are missing or broken.
    """
    folder = checkout / study.folder
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there: give a checkout of {study.repository} at {study.commit}")
    if study.logs:
        cells = [_logged(folder, study.logs, arm) for arm in study.logs.arms]
        return cells, [
            text for arm, cell in zip(study.logs.arms, cells, strict=True) if (text := unlike_printed(arm, cell))
        ]
    assert study.tables is not None
    cells = sorted(_tabled(folder, study.tables), key=lambda cell: (cell.arm.lower(), cell.parameters, cell.tokens))
    if not cells:
        raise ValueError(f"{folder} holds no file like {study.tables.pattern}: is it at {study.commit}?")
    silent = [f"{cell.arm} {cell.size} {cell.budget}" for cell in cells if not cell.losses]
    return cells, [f"no loss of the chosen configuration: {', '.join(silent)}"] if silent else []


def unlike_printed(arm: LoggedArm, cell: Cell) -> str | None:
    """Return a sentence where the mean or the number of runs is not what the source prints; None where it is."""
    mean = sum(cell.losses) / len(cell.losses)
    if arm.seeds is not None and arm.seeds != len(cell.losses):
        return f"{arm.name}: {len(cell.losses)} runs in its files, {arm.seeds} by its source"
    if arm.printed is not None and abs(mean - arm.printed) > ROUNDING:
        return (
            f"{arm.name}: the mean of its {len(cell.losses)} runs is {mean:.5f}, its source prints {loss(arm.printed)}"
        )
    return None


def _logged(folder: Path, logs: Logs, arm: LoggedArm) -> Cell:
    """Read the runs of an arm, and take each at the update at which the arm is stated."""
    files = sorted({file for pattern in arm.files for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise ValueError(f"{folder} holds no file like {' or '.join(arm.files)}, which {arm.name} is of")
    losses: list[float] = []
    runs: list[ForeignRun] = []
    for file in files:
        if file.suffix == ".md":
            losses += _column(file, arm)
        else:
            chosen = {"val/loss": arm.column} if arm.column else {}
            runs += [run for log in read(str(file)) for run in runs_in(log, meaning_of(log, chosen, None))]
    losses += [cut(run, arm.updates).evaluations[-1]["val/loss"] for run in without_repeats(runs)[0]]
    if not losses or not all(map(math.isfinite, losses)):
        raise ValueError(f"{files[0]}: {arm.name} has no finite loss at step {arm.updates}")
    tokens = arm.updates * logs.tokens_per_update
    source = place([file.relative_to(folder).as_posix() for file in files])
    return Cell(
        *(arm.name, logs.size, logs.parameters, tokens, tuple(losses)),
        updates=arm.updates, source=source, sha256=_checksum(files, folder),
    )  # fmt: skip


def _column(file: Path, arm: LoggedArm) -> list[float]:
    """Return a column of a Markdown table, of the rows whose first cell is the number of a seed."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in file.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("|")]  # fmt: skip
    heads = [i for i, row in enumerate(rows) if arm.column in row]
    if not heads:
        raise ValueError(f"{file} has no table with the column {arm.column!r}")
    place = rows[heads[0]].index(str(arm.column))
    try:
        return [float(row[place]) for row in rows[heads[0] :] if row[0].isdecimal()]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: the column {arm.column!r} is broken ({error})") from None


def _tabled(folder: Path, tables: Tables) -> list[Cell]:
    cells = []
    for file in sorted(folder.rglob("*.json")):
        match = re.fullmatch(tables.pattern, file.relative_to(folder).as_posix())
        if not match:
            continue
        try:
            values = flatten(parse_json(file.read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{file} is no JSON with keys ({error}): take it from the repository again") from None
        size, budget = match["size"], match["budget"]
        if size not in tables.parameters:
            raise ValueError(f"{file}: the parameters of {size} are not known: give tables.parameters.{size}")
        tokens = round(tables.tokens_per_parameter * tables.parameters[size] * float(budget))
        chosen, lowest = _number(values, tables.losses, file), _number(values, tables.lowest, file)
        trials = [value for key, value in values.items() if key.startswith(f"{tables.trials}.") and value is not None]
        if chosen is None and lowest is None:
            raise ValueError(f"{file} has neither {tables.losses} nor {tables.lowest}")
        cells.append(
            Cell(
                *(tables.names.get(match["arm"], match["arm"]), size, tables.parameters[size], tokens),
                *(() if chosen is None else (chosen,), budget),
                lowest=lowest,
                trials=max(1, len(trials)),
                source=file.relative_to(folder).as_posix(),
                sha256=_checksum([file], folder),
            )
        )
    return cells


def _number(values: Mapping[str, Any], key: str, file: Path) -> float | None:
    value = values.get(key)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ):
        raise ValueError(f"{file}: {key} is {value!r}, which is no loss")
    return None if value is None else float(value)


def place(files: Sequence[str]) -> str:
    """Return the path of one file below the study's folder; of several that of the folder they share, with a star."""
    paths = [Path(file) for file in files]
    if len(paths) == 1:
        return paths[0].as_posix()
    shared = next(parent for parent in paths[0].parents if all(parent in path.parents for path in paths))
    return "*" if shared == Path() else f"{shared.as_posix()}/*"


def _checksum(files: Sequence[Path], folder: Path) -> str:
    sums = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{of}  {name}\n" for name, of in sums.items()).encode()).hexdigest()
