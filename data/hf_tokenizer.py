"""Encodes by any tokenizer of transformers: `hf:FOLDER`, or `hf:NAME` on the Hugging Face Hub.

It has tokens of its own for [MASK], [CLS] and [SEP] where it is one for masked models, as WordPiece is.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conventions.paths import expanded, forget_empty
from conventions.sentence import sentence
from data.shards import Dtype, smallest_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PREFIX = "hf:"


class HuggingFace:
    """A tokenizer of transformers. A document that spells out a special token gets no special token for it.

    Raises ModuleNotFoundError without transformers, ConnectionError where the Hub cannot be reached, ValueError where
    there is no such tokenizer, or it has nothing to end a document with.
    """

    def __init__(self, name: str):
        self.name = name
        tokenizer = load(name)
        self.encoder = tokenizer.backend_tokenizer
        self.encoder.encode_special_tokens = True
        self.vocabulary = len(tokenizer)
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


def as_transformers(name: str) -> "PreTrainedTokenizerFast":
    """Make transformers' tokenizer out of any of ours, with the same ids: `bytes`, an encoding of tiktoken's, `hf:...`.

    It lies in a folder of exported weights, and evaluation suites use it. Raises ValueError for a name that is none.
    """
    if name.startswith(PREFIX):
        return load(name)
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = _letters()
    if name == "bytes":
        end = "<|endoftext|>"  # in the place of NUL, which no text holds
        vocabulary = {letters[byte] if byte else end: byte for byte in range(256)}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        import tiktoken

        encoding = tiktoken.get_encoding(name)
        ranks = encoding._mergeable_ranks
        vocabulary = {_spelled(token, letters): rank for token, rank in ranks.items()}
        merges = [(_spelled(one, letters), _spelled(other, letters)) for one, other in _merges(ranks)]
        backend = Tokenizer(models.BPE(vocabulary, merges))
        split = pre_tokenizers.Split(Regex(encoding._pat_str), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        end = encoding.decode([encoding.eot_token])
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, clean_up_tokenization_spaces=False)


def _letters() -> dict[int, str]:
    """Give each byte the letter that GPT-2's BPE writes it as: its own where that is printable."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _spelled(token: bytes, letters: dict[int, str]) -> str:
    return "".join(letters[byte] for byte in token)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pairs that make each token of a BPE, in the order in which they are merged."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:  # merge by rank, as the encoder does, with the tokens that come before this one
            at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[at] + parts[at + 1], rank) >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges
