"""Encodes by any tokenizer of transformers: `hf:FOLDER`, or `hf:NAME` on the Hugging Face Hub.

It has tokens of its own for [MASK], [CLS] and [SEP] where it is one for masked models, as WordPiece is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from conventions.config_keys import tokenizer_label
from conventions.paths import expanded, forget_empty
from conventions.sentence import sentence
from data.shards import Dtype, smallest_dtype

PREFIX = "hf:"


class HuggingFace:
    """A tokenizer of transformers. A document that spells out a special token gets no special token for it.

    Raises ModuleNotFoundError without transformers, ConnectionError where the Hub cannot be reached, ValueError where
    there is no such tokenizer, or it has nothing to end a document with.
    """

    def __init__(self, name: str):
        # A fingerprint has the name in it, and the same tokens may come of another place.
        self.name = tokenizer_label(name) if local_folder(name) else name
        tokenizer = load(name)
        self.encoder = tokenizer.backend_tokenizer
        self.encoder.encode_special_tokens = True
        self.vocabulary = len(tokenizer)
        _unspell(self.encoder, tokenizer.all_special_ids)
        self.dtype: Dtype = smallest_dtype(self.vocabulary)
        ends = [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
        if (end := next((e for e in ends if e is not None), None)) is None:
            raise ValueError(f"tokenizer {name} has no token that ends a document: give it an eos_token")
        self.end = int(end)
        special = (tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        self.special = None if None in special else special

    def encode(self, text: str) -> np.ndarray:
        # Half a surrogate pair, which JSON can spell, is no text to it.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return np.array(self.encoder.encode(text, add_special_tokens=False).ids, self.dtype)


def _unspell(encoder: Any, special: list[int]) -> None:
    """Take the spellings of special tokens from a Unigram model, as T5's is: SentencePiece never reads these in a text.

    Its vocabulary has them as pieces like any other, so that `</s>` in a text would end a document.
    """
    state = json.loads(encoder.to_str())["model"]
    if state["type"] != "Unigram":
        return
    from tokenizers.models import Unigram

    pieces = [(f"\0{piece}\0" if i in special else piece, score) for i, (piece, score) in enumerate(state["vocab"])]
    encoder.model = Unigram(pieces, state["unk_id"], state["byte_fallback"])


def load(name: str) -> Any:
    """Return transformers' fast tokenizer of a name that begins with `hf:`."""
    forget_empty("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "XDG_CACHE_HOME")
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"data.tokenizer={name} needs the package transformers: pip install transformers"
        ) from None
    folder = local_folder(name)
    source = str(folder) if folder else name.removeprefix(PREFIX)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        if folder:
            raise ValueError(
                f"data.tokenizer={name}: the folder holds no tokenizer that transformers can load ({sentence(error)}); "
                "it needs a tokenizer.json, as save_pretrained writes it"
            ) from None
        raise ConnectionError(
            f"data.tokenizer={name}: there is no such folder, and the Hugging Face Hub gives no tokenizer of that name "
            f"({sentence(error)}); run again with a network, or give a folder that save_pretrained wrote"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"data.tokenizer={name} has no fast version: give one with a tokenizer.json")
    return tokenizer


def local_folder(name: str) -> Path | None:
    """Return the folder that a name stands for; None for a name on the Hub."""
    path = expanded(name.removeprefix(PREFIX), "data.tokenizer")
    return path.absolute() if path.is_dir() else None
