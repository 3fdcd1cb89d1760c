"""Text to tokens: `bytes`, which needs nothing, and GPT-2's BPE (or another of tiktoken's) by its name.

tokenizer = build("gpt2")
tokenizer.encode("Hello")      # array([15496], dtype=uint16)
tokenizer.end                  # 50256, appended to every document
"""

import threading
from typing import Any, Protocol

import numpy as np

from data.shards import LARGEST_VOCABULARY

PATIENCE = 25.0  # seconds for tiktoken to fetch its BPE files (1.5 MB), where they are not cached


class Tokenizer(Protocol):
    name: str
    vocabulary: int  # ids are below it
    end: int  # the id that ends a document

    def encode(self, text: str) -> np.ndarray: ...  # (n,) uint16, without the end; safe in many threads


class Bytes:
    """UTF-8 bytes as ids; NUL, which no source text holds, ends a document."""

    name = "bytes"
    vocabulary = 256
    end = 0

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint16)


class Tiktoken:
    """An encoding of tiktoken's. A document that spells out a special token gets no special token for it.

    Raises ModuleNotFoundError without tiktoken, ConnectionError where its BPE files are neither cached nor to be
    fetched, ValueError for an unknown encoding or one whose ids do not fit 16 bits.
    """

    def __init__(self, name: str):
        try:
            import tiktoken
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"data.tokenizer={name} needs the package tiktoken: pip install tiktoken, or take data=stdlib"
            ) from None
        known = tiktoken.list_encoding_names()
        if name not in known:
            raise ValueError(f"tokenizer must be bytes or one of {', '.join(known)}, not {name!r}")
        self.name = name
        self.encoding = patiently(tiktoken.get_encoding, name)
        self.vocabulary, self.end = self.encoding.n_vocab, self.encoding.eot_token
        if self.vocabulary > LARGEST_VOCABULARY:
            raise ValueError(
                f"tokenizer {name} has {self.vocabulary} tokens, but a shard's 16 bits hold "
                f"{LARGEST_VOCABULARY}; take tokenizer=gpt2"
            )

    def encode(self, text: str) -> np.ndarray:
        try:
            ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = self.encoding.encode_to_numpy(whole, disallowed_special=())
        return ids.astype(np.uint16)


def build(name: str) -> Tokenizer:
    return Bytes() if name == "bytes" else Tiktoken(name)


def patiently(get_encoding: Any, name: str) -> Any:
    """get_encoding(name), given up after PATIENCE: tiktoken downloads without any time limit of its own."""
    outcome: list[Any] = []

    def fetch() -> None:
        try:
            outcome.append(get_encoding(name))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if outcome and not isinstance(outcome[0], Exception):
        return outcome[0]
    why = f"{type(outcome[0]).__name__}" if outcome else f"no answer in {PATIENCE:.0f} s"
    raise ConnectionError(
        f"data.tokenizer={name}: tiktoken could not fetch its BPE files ({why}); on a machine with a network run "
        f"`python -c \"import tiktoken; tiktoken.get_encoding('{name}')\"` with TIKTOKEN_CACHE_DIR set, copy that "
        "folder here and set TIKTOKEN_CACHE_DIR to it, or take data=stdlib, which needs no download"
    ) from None
