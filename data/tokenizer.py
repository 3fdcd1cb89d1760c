"""Turns text into token ids: by `bytes`, which needs nothing, by an encoding of tiktoken's, or by transformers.

tokenizer = build("gpt2")
tokenizer.encode("Hello")      # array([15496], dtype=uint16)
tokenizer.end                  # 50256, appended to every document
"""

import contextlib
import re
import threading
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from conventions.paths import forget_empty
from conventions.sentence import nearest
from data.hf_tokenizer import PREFIX, HuggingFace
from data.shards import Dtype, smallest_dtype
from data.words import FILE
from data.words import NAME as WORDS

PATIENCE = 25.0  # seconds for tiktoken to fetch its BPE files (1.5 MB), where they are not cached
# tiktoken's regular expression gives up on a million spaces in a row; Llama 3's authors cut runs at this length.
LONG_BLANK = re.compile(r"\s{25000}")


class Tokenizer(Protocol):
    """Turns text into ids."""

    name: str
    vocabulary: int  # ids are below it
    end: int  # the id that ends a document
    dtype: Dtype  # of the ids
    special: tuple[int, int, int] | None  # its own [MASK], [CLS] and [SEP]; None: it has none

    def encode(self, text: str) -> np.ndarray: ...  # (n,) of dtype, without the end; safe in many threads


class Bytes:
    """Takes UTF-8 bytes as ids; NUL, which no source text holds, ends a document."""

    name = "bytes"
    vocabulary = 256
    end = 0
    dtype: Dtype = "uint16"
    special: tuple[int, int, int] | None = None

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint16)


class Tiktoken:
    """Encodes by one of tiktoken's encodings. A document that spells out a special token gets no special token for it.

    Raises ModuleNotFoundError without tiktoken, ConnectionError where its BPE files are neither cached nor to be
    fetched, ValueError for an unknown encoding.
    """

    def __init__(self, name: str):
        forget_empty("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
        try:
            import tiktoken
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"data.tokenizer={name} needs the package tiktoken: pip install tiktoken, or take data=stdlib"
            ) from None
        known = tiktoken.list_encoding_names()
        if name not in known:
            hint = nearest(name.lower(), [*known, "bytes", WORDS])
            with contextlib.suppress(KeyError):  # "gpt-4" is the name of a model, whose encoding tiktoken knows
                hint = f"did you mean {tiktoken.encoding_name_for_model(name.lower())}?"
            raise ValueError(
                f"tokenizer must be bytes, {WORDS}, an encoding of tiktoken's or hf:FOLDER, not {name!r}: {hint}"
            )
        self.name = name
        self.encoding = patiently(tiktoken.get_encoding, name)
        self.vocabulary, self.end = self.encoding.n_vocab, self.encoding.eot_token
        self.dtype: Dtype = smallest_dtype(self.vocabulary)
        self.special: tuple[int, int, int] | None = None

    def encode(self, text: str) -> np.ndarray:
        try:
            return self._ids(text)
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
            return self.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except ValueError as error:
            ends = [match.end() for match in LONG_BLANK.finditer(text)]
            if not ends or ends == [len(text)]:
                raise ValueError(
                    f"tokenizer {self.name} cannot encode the text that begins with {text[:40]!r} ({error}); "
                    "take that text out, or another tokenizer"
                ) from None
            return np.concatenate([self.encode(text[a:b]) for a, b in pairwise([0, *ends, len(text)])])

    def _ids(self, text: str) -> np.ndarray:
        return self.encoding.encode_to_numpy(text, disallowed_special=()).astype(self.dtype)


def build(name: str) -> Tokenizer:
    """Return the tokenizer of that name. Raises what `Tiktoken` and `HuggingFace` raise; ValueError for `words`."""
    if name == "bytes":
        return Bytes()
    if name == WORDS:
        raise ValueError(f"tokenizer {WORDS} is made of a corpus, beside whose tokens it lies: {FILE}")
    return HuggingFace(name) if name.startswith(PREFIX) else Tiktoken(name)


def patiently(get_encoding: Any, name: str) -> Any:
    """Call get_encoding(name), and give up after PATIENCE: tiktoken downloads without any time limit of its own."""
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
