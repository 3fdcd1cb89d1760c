"""Shards that are there already: llm.c's, modded-nanogpt's, or nanoGPT's train.bin and val.bin.

    python train.py data=shards data.train=data/train.bin data.val=data/val.bin data.vocabulary=50257

They are read where they lie and never written. What is kept of them is a dataset.json with their hashes, in a
folder of its own under data.dir, so that a shard that changes between two runs is found.
"""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Splits
from data.prepare import DIR
from data.progress import Progress
from data.shards import LARGEST_VOCABULARY


def shards(
    train: str | list[str],
    val: str | list[str],
    vocabulary: int = 50257,
    tokenizer: str = "gpt2",
    dir: str = DIR,
) -> "Existing":
    """train, val: paths or globs; a glob's files are read in the order of their names.

    vocabulary: ids are below it; all are looked at once. tokenizer: a name, kept in the fingerprint.
    """
    if not 2 <= vocabulary <= LARGEST_VOCABULARY:
        raise ValueError(
            f"vocabulary must be between 2 and {LARGEST_VOCABULARY}, what 16-bit tokens can name, not {vocabulary}"
        )
    splits = Splits(found(train, "train"), found(val, "val"), vocabulary, tokenizer)
    for path in splits.train:
        if path in splits.val:
            raise ValueError(f"val: {path} is also in train; a run must not be judged by what it is trained on")
    identity = {
        "train": [str(path) for path in splits.train],
        "val": [str(path) for path in splits.val],
        "vocabulary": vocabulary,
        "tokenizer": tokenizer,
    }
    return Existing(dir, identity, splits)


@dataclass(frozen=True)
class Existing:
    dir: str
    identity: dict[str, Any]
    splits: Splits

    def build(self, folder: Path, progress: Progress) -> Splits:
        return self.splits


def found(patterns: str | list[str], key: str) -> list[Path]:
    paths: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise FileNotFoundError(f"data.{key}: there is no shard at {pattern}")
        paths += [match.absolute() for match in matches]
    return list(dict.fromkeys(paths))
