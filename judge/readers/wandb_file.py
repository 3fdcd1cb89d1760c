"""Reads the .wandb file of an offline run: LevelDB's log format around records of W&B's own protocol."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conventions.config_keys import flatten
from conventions.json_text import parse_json
from judge.readers.log import Line, Log, Value, optional, source_of

FORMAT = "W&B offline file (.wandb)"
MAGIC, HEADER, BLOCK = b":W&B", 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def recognises(path: Path) -> bool:
    return path.is_file() and path.suffix == ".wandb"


def read(path: Path) -> list[Log]:
    """Return one log of the whole history, with the run's own config. Columns are W&B's, `_step` and `_runtime` too."""
    protocol = optional("wandb.proto.wandb_internal_pb2", f"{path} needs W&B's client")
    config: dict[str, Any] = {}
    lines: list[Line] = []
    name, cut = str(path), "its file has no record of an exit: the run was cut off"
    for data in _records(path):
        if data is None:
            cut = "its file ends in the middle of a record: the run was cut off"
            break
        record = protocol.Record()
        try:
            record.ParseFromString(data)
            for update in [*record.run.config.update, *record.config.update]:
                config[update.key or ".".join(update.nested_key)] = parse_json(update.value_json)
            cut = "" if record.WhichOneof("record_type") == "exit" else cut
            name = record.run.display_name or name
            history = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            row = flatten({key: parse_json(text) for key, text in history.items()})
        except Exception as error:  # the protocol's own error, or JSON's
            raise ValueError(f"{path} holds a record that W&B's client cannot read ({str(error)[:80]})") from None
        if history:
            lines.append(Line(0, numbers({"_step": record.history.step.num, **row})))
    if not lines:
        raise ValueError(f"{path} holds no history: the run logged nothing")
    config.pop("_wandb", None)
    return [Log(name, source_of(path, FORMAT), lines, {}, flatten(config), cut=cut)]


def numbers(row: dict[str, Any]) -> dict[str, Value]:
    """Return the values of a row that are numbers or words; histograms, pictures and lists are left out."""
    kept = {key: value for key, value in row.items() if isinstance(value, int | float | str) and value != ""}
    return {key: value if isinstance(value, str) else float(value) for key, value in kept.items()}


def _records(path: Path) -> Iterator[bytes | None]:
    """Yield the records in order; None last where the file is cut off."""
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(f"{path} is no .wandb file: it does not begin with {MAGIC.decode()}")
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # the rest of a block that no header fits into
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        piece = data[place + HEADER : place + HEADER + length]
        if kind == 0 and length == 0:  # preallocated
            break
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(piece) < length:
            yield None
            return
        place += HEADER + length
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            yield parts
            parts = b""
    if parts:
        yield None
