"""A prepared corpus: two lists of shards, and a dataset.json that says what was in them when they were made.

dataset.json is written last: a folder that has one is whole. Opening it trusts a shard whose size and time of
change are as recorded, and reads it again otherwise, so that tokens never change behind a fingerprint's back.
"""

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.shards import LARGEST_VOCABULARY, inspect, measure

RECORD = "dataset.json"
SCHEMA = 1


@dataclass(frozen=True)
class Dataset:
    name: str
    train: tuple[Path, ...]  # shards
    val: tuple[Path, ...]
    vocabulary: int  # token ids are below it
    tokenizer: str
    fingerprint: str  # 64 hex digits over the shards, tokenizer and vocabulary: equal means the same tokens
    train_tokens: int
    val_tokens: int
    folder: Path  # where dataset.json lies


@dataclass(frozen=True)
class Splits:
    """What a recipe has made or found, before it is sealed."""

    train: list[Path]
    val: list[Path]
    vocabulary: int
    tokenizer: str


def seal(folder: Path, name: str, identity: dict[str, Any], splits: Splits) -> Dataset:
    """Read every shard once, take its hash, refuse ids beyond the vocabulary, and write dataset.json."""
    if splits.vocabulary > LARGEST_VOCABULARY:
        raise ValueError(
            f"vocabulary is {splits.vocabulary}, but the 16 bits of a shard's tokens hold {LARGEST_VOCABULARY}"
        )
    for split, paths in (("training", splits.train), ("validation", splits.val)):
        if not paths:
            raise ValueError(f"there is no text for the {split} split of {name}; give more text, or another val_share")
    paths = [*splits.train, *splits.val]
    before = [path.stat() for path in paths if measure(path)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        findings = list(pool.map(inspect, paths))
    entries = []
    for path, stat, (digest, highest) in zip(paths, before, findings, strict=True):
        if highest >= splits.vocabulary:
            raise ValueError(
                f"{path} holds the token id {highest}, beyond vocabulary={splits.vocabulary}; "
                "give the vocabulary of the tokenizer that made it"
            )
        file = path.name if path.parent == folder else str(path)
        entries.append(
            {
                "file": file,
                "tokens": measure(path)[1],
                "size": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
                "sha256": digest,
            }
        )
    train, val = entries[: len(splits.train)], entries[len(splits.train) :]
    decisive = [[entry["sha256"] for entry in half] for half in (train, val)]
    marks = json.dumps([*decisive, splits.tokenizer, splits.vocabulary])
    record = {
        "schema": SCHEMA,
        "name": name,
        "fingerprint": hashlib.sha256(marks.encode()).hexdigest(),
        "tokenizer": splits.tokenizer,
        "vocabulary": splits.vocabulary,
        "identity": identity,
        "train": train,
        "val": val,
    }
    write_json(folder / RECORD, record)
    return _dataset(folder, record)


def reopen(folder: Path) -> Dataset | None:
    """The dataset of a folder, its shards checked; None where it was never finished.

    Raises ValueError or FileNotFoundError naming the shard that is missing, short, foreign or changed.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        entries = [*record["train"], *record["val"]]
        dataset = _dataset(folder, record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; delete {folder} and run again to prepare it anew") from None
    touched = False
    for entry in entries:
        try:
            touched |= _check(folder, entry)
        except (ValueError, FileNotFoundError) as error:
            ours = not Path(entry["file"]).is_absolute()
            remedy = (
                f"delete {folder} and run again to prepare it anew"
                if ours
                else f"bring back the file, or, if the change is meant, delete {path} and run again"
            )
            raise type(error)(f"{error}; {remedy}") from None
    if touched:
        with contextlib.suppress(OSError):  # a shared folder may be read-only: then it is hashed every time
            write_json(path, record)
    return dataset


def _check(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the record's time of change had to be renewed; ValueError where the content is another."""
    path = folder / entry["file"]
    _, held = measure(path)
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (entry["size"], entry["mtime_ns"]):
        return False
    if held != entry["tokens"] or inspect(path)[0] != entry["sha256"]:
        raise ValueError(f"{path} has changed since its fingerprint was taken")
    entry["mtime_ns"] = stat.st_mtime_ns
    return True


def _dataset(folder: Path, record: dict[str, Any]) -> Dataset:
    if record["schema"] != SCHEMA:
        raise ValueError("another schema")
    train, val = record["train"], record["val"]
    return Dataset(
        name=record["name"],
        train=tuple(folder / entry["file"] for entry in train),
        val=tuple(folder / entry["file"] for entry in val),
        vocabulary=record["vocabulary"],
        tokenizer=record["tokenizer"],
        fingerprint=record["fingerprint"],
        train_tokens=sum(entry["tokens"] for entry in train),
        val_tokens=sum(entry["tokens"] for entry in val),
        folder=folder,
    )


def write_json(path: Path, value: Any) -> None:
    """Replace a file at once and durably: after a power cut it holds the old value or the new one."""
    growing = path.with_name(f"{path.name}.{os.getpid()}")
    with open(growing, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(growing, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
