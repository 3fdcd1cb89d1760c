"""Tokenizers of ours become tokenizers of transformers, with the same ids."""

from typing import TYPE_CHECKING

from data.hf_tokenizer import PREFIX, load
from data.tokenizer import Bytes, Tiktoken
from data.words import FILE
from data.words import NAME as WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def as_transformers(name: str) -> "PreTrainedTokenizerFast":
    """Make transformers' tokenizer out of any of ours, with the same ids: `bytes`, an encoding of tiktoken's, `hf:...`.

    It lies in a folder of exported weights, and evaluation suites use it. Raises ValueError for a name that is none.
    """
    if name.startswith(PREFIX):
        return load(name)
    if name == WORDS:
        raise ValueError(f"data.tokenizer={WORDS} is a corpus's own words ({FILE}), and no tokenizer of transformers")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = _letters()
    if name == "bytes":
        end = "<|endoftext|>"  # in the place of NUL, which no text holds
        vocabulary = {letters[byte] if byte != Bytes.end else end: byte for byte in range(256)}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        encoding = Tiktoken(name).encoding
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
