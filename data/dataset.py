"""Seals a prepared corpus and opens it again: two lists of shards, and a dataset.json that records their hashes.

dataset.json is written last: a folder that has one is whole. A shard whose size and time of change are as recorded
is trusted; any other is read and hashed again, so that equal fingerprints always mean equal tokens.
"""

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from conventions.json_text import parse_json
from conventions.paths import as_text, from_text
from data.shards import Dtype, Shard, inspect, measure

Entry = dict[str, Any]  # what dataset.json keeps of a shard

RECORD, PROGRESS, LOCK = "dataset.json", "progress.json", "lock"  # in a prepared folder, beside the shards
SCHEMA = 1


@dataclass(frozen=True)
class Dataset:
    """A corpus that is ready to be trained on."""

    name: str
    train: tuple[Shard, ...]
    val: tuple[Shard, ...]
    vocabulary: int  # token ids are below it
    tokenizer: str
    fingerprint: str  # 64 hex digits over the shards, tokenizer and vocabulary: equal means the same tokens
    train_tokens: int
    val_tokens: int
    folder: Path  # where dataset.json lies
    special: tuple[int, int, int]  # [MASK], [CLS] and [SEP]: the tokenizer's own, or the three ids after its last

    def entry(self) -> dict[str, Any]:
        """Return the dataset's entry in a run's manifest."""
        kept = ("name", "fingerprint", "vocabulary", "train_tokens", "val_tokens")
        return {key: getattr(self, key) for key in kept}


@dataclass(frozen=True)
class Splits:
    """The shards that a recipe has made, or that were there already: what `seal` makes a Dataset of."""

    train: list[Shard]
    val: list[Shard]
    vocabulary: int
    tokenizer: str
    special: tuple[int, int, int] | None = None  # the tokenizer's own [MASK], [CLS] and [SEP]


def seal(folder: Path, name: str, identity: dict[str, Any], splits: Splits) -> Dataset:
    """Read every shard once, take its hash, refuse ids beyond the vocabulary, and write dataset.json.

    Raises ValueError where a split is empty, or an id is beyond the vocabulary.
    """
    if not splits.train:
        raise ValueError(f"there is no text for the training split of {name}; give more text, or a smaller val_share")
    if not splits.val:
        raise ValueError(
            f"there is no text for the validation split of {name}: of its documents, or of a long text's passages of "
            "8 kB, a share is held out by a hash of their text, so that equal ones fall into one split, and there are "
            "too few different ones; give more text, a larger val_share, or a validation text of its own"
        )
    shards = [*splits.train, *splits.val]
    before = [shard.path.stat() for shard in shards if measure(shard)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        findings = list(pool.map(inspect, shards))
    entries = []
    for shard, stat, (digest, highest) in zip(shards, before, findings, strict=True):
        path, layout = shard.path, measure(shard)
        if highest >= splits.vocabulary:
            other = "" if layout.offset else f", or data.dtype, if its tokens are not {layout.dtype}"
            raise ValueError(
                f"{path} holds the token id {highest}, beyond vocabulary={splits.vocabulary}; "
                f"give the vocabulary of the tokenizer that made it{other}"
            )
        entry = {
            "file": path.name if path.parent == folder else as_text(path),
            "tokens": layout.tokens,
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": digest,
        }
        entries.append(entry if layout.offset or not shard.dtype else entry | {"dtype": shard.dtype})
    train, val = entries[: len(splits.train)], entries[len(splits.train) :]
    record = {
        "schema": SCHEMA,
        "name": name,
        "fingerprint": _fingerprint(train, val, splits.tokenizer, splits.vocabulary),
        "tokenizer": splits.tokenizer,
        "vocabulary": splits.vocabulary,
        "identity": identity,
        "train": train,
        "val": val,
    }
    if splits.special:
        record["special"] = list(splits.special)
    write_json(folder / RECORD, record)
    return _dataset(folder, record)


def _fingerprint(train: list[Entry], val: list[Entry], tokenizer: str, vocabulary: int) -> str:
    # A file without a header has the same bytes, and so the same hash, whatever its tokens are taken for.
    halves = [[f"{e['sha256']}{':uint32' * (e.get('dtype') == 'uint32')}" for e in half] for half in (train, val)]
    return hashlib.sha256(json.dumps([*halves, tokenizer, vocabulary]).encode()).hexdigest()


def reopen(folder: Path) -> Dataset | None:
    """Open the dataset of a folder, after a check of its shards; None where it was never finished.

    Raises ValueError or FileNotFoundError naming the shard that is missing, cut short, no shard or changed.
    """
    path = folder / RECORD
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        entries = [*record["train"], *record["val"]]
        dataset = _dataset(folder, record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; delete {folder} and run again to prepare it anew") from None
    touched = False
    for entry in entries:
        try:
            touched |= _check(folder, entry)
        except (ValueError, FileNotFoundError) as error:
            ours = not entry["file"].startswith("/")
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


def _check(folder: Path, entry: Entry) -> bool:
    """Check a shard against its entry, whose time of change is renewed where the content is the same.

    Returns whether it was renewed. Raises ValueError where the content is another.
    """
    shard = _shard(folder, entry)
    held = measure(shard).tokens
    stat = shard.path.stat()
    same = held == entry["tokens"] and stat.st_size == entry["size"]
    if same and stat.st_mtime_ns == entry["mtime_ns"]:
        return False
    if not same or inspect(shard)[0] != entry["sha256"]:
        raise ValueError(f"{shard.path} has changed since its fingerprint was taken")
    entry["mtime_ns"] = stat.st_mtime_ns
    return True


def _shard(folder: Path, entry: Entry) -> Shard:
    return Shard(folder / from_text(entry["file"]), entry.get("dtype"))


def _dataset(folder: Path, record: dict[str, Any]) -> Dataset:
    """Make the dataset that a record describes.

    Raises ValueError, LookupError, TypeError or AttributeError where `seal` did not write the record.
    """
    train, val = record["train"], record["val"]
    for entry in (*train, *val):
        numbers = [entry["tokens"], entry["size"], entry["mtime_ns"]]
        if not all(type(number) is int for number in numbers) or entry.get("dtype") not in (None, *get_args(Dtype)):
            raise ValueError("no entry of ours")
    marks = _fingerprint(train, val, record["tokenizer"], record["vocabulary"])
    named = isinstance(record["name"], str)
    if record["schema"] != SCHEMA or not (named and train and val) or record["fingerprint"] != marks:
        raise ValueError("no record of ours")
    return Dataset(
        name=record["name"],
        train=tuple(_shard(folder, entry) for entry in train),
        val=tuple(_shard(folder, entry) for entry in val),
        vocabulary=record["vocabulary"],
        tokenizer=record["tokenizer"],
        fingerprint=record["fingerprint"],
        train_tokens=sum(entry["tokens"] for entry in train),
        val_tokens=sum(entry["tokens"] for entry in val),
        folder=folder,
        special=_special(record),
    )


def _special(record: dict[str, Any]) -> tuple[int, int, int]:
    vocabulary = record["vocabulary"]
    special = record.get("special", range(vocabulary, vocabulary + 3))
    if len(special) != 3 or not all(type(token) is int and 0 <= token < vocabulary + 3 for token in special):
        raise ValueError("no record of ours")
    mask, cls, sep = special
    return mask, cls, sep


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
