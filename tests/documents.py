"""The documents of a prepared corpus, read back from its shards."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.shards import Stream


def documents_of(shards: Sequence[Any]) -> list[str]:
    """Return the documents of a byte-level split; every one must end in NUL."""
    stream = Stream(shards)
    text = bytes(stream.read(0, len(stream)).astype(np.uint8)).decode()
    assert text.endswith("\0")
    return text[:-1].split("\0")
