"""Takes shards that are there already: llm.c's, modded-nanogpt's, or nanoGPT's train.bin and val.bin.

    python train.py data=shards data.train=data/train.bin data.val=data/val.bin data.vocabulary=50257

They are read where they lie and never written. A dataset.json with their hashes is kept in a folder of its own under
data.dir, so that a shard that changes between two runs is noticed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.paths import as_text, expanded
from data.dataset import Splits
from data.files import globbed, once, refuse_shared
from data.prepare import DIR
from data.progress import Progress
from data.shards import LARGEST_VOCABULARY, Dtype, Shard, measure, smallest_dtype


def shards(
    train: str | list[str],
    val: str | list[str],
    vocabulary: int = 50257,
    tokenizer: str = "gpt2",
    dtype: Dtype | None = None,
    dir: str = DIR,
) -> "Existing":
    """Find shards by their paths or globs; the files of a glob are read in the order of their names.

    vocabulary: ids are below it; all of them are checked, once. tokenizer: a name, kept in the fingerprint. dtype: of
    the tokens of files without a header; None takes them for uint16, and refuses files that look wider.

    Raises ValueError or FileNotFoundError, which name the key or the file.
    """
    if not 2 <= vocabulary <= LARGEST_VOCABULARY:
        raise ValueError(
            f"vocabulary must be between 2 and {LARGEST_VOCABULARY}, what 32-bit tokens can name, not {vocabulary}"
        )
    notes: list[str] = []
    trained, held_out = (find_shards(patterns, key, notes) for patterns, key in ((train, "train"), (val, "val")))
    refuse_shared(trained, held_out, "train", "val")
    identity: dict[str, Any] = {
        "train": [as_text(path) for path in trained],
        "val": [as_text(path) for path in held_out],
        "vocabulary": vocabulary,
        "tokenizer": tokenizer,
    }
    if dtype is not None:
        identity["dtype"] = dtype
    return Existing(
        dir, identity, [Shard(path, dtype) for path in trained], [Shard(path, dtype) for path in held_out], notes
    )


@dataclass(frozen=True)
class Existing:
    """The recipe of shards that are there already: there is nothing to build."""

    dir: str
    identity: dict[str, Any]
    train: list[Shard]
    val: list[Shard]
    notes: list[str]

    def build(self, folder: Path, progress: Progress) -> Splits:
        vocabulary = self.identity["vocabulary"]
        for shard in (*self.train, *self.val):
            layout = measure(shard)
            if not layout.offset and not shard.dtype and smallest_dtype(vocabulary) != layout.dtype:
                raise ValueError(
                    f"{shard.path} has no header, and 16-bit tokens cannot name all ids below vocabulary={vocabulary}; "
                    "give data.dtype=uint32 if its tokens have 32 bits, or else the vocabulary of its tokenizer"
                )
        for note in self.notes:
            progress.say(note)
        return Splits(self.train, self.val, vocabulary, self.identity["tokenizer"])


def find_shards(patterns: str | list[str], key: str, notes: list[str]) -> list[Path]:
    """Return the files that paths and globs stand for, each once; what is listed again is added to `notes`.

    Raises FileNotFoundError where a path or glob matches nothing.
    """
    paths: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = expanded(pattern, f"data.{key}")
        matches = [path] if path.is_file() else globbed(path)
        if not matches:
            raise FileNotFoundError(f"data.{key}: there is no shard at {pattern}")
        paths += [match.absolute() for match in matches]
    return once(paths, key, notes)
