"""Writes folders with tokenizers as T5's: a Unigram model, `</s>` for an end, and no token for a beginning."""

from pathlib import Path

PIECES = ["▁the", "▁of", "▁return", "▁def", "▁self", "ing", "er", "▁", *map(chr, range(33, 127))]


def write_t5(folder: Path, pieces: int = len(PIECES)) -> Path:
    """A folder that save_pretrained wrote: <pad>, </s>, <unk>, so many pieces of text, and 100 sentinels as T5's."""
    from transformers import T5TokenizerFast

    listed = [*PIECES, *(f"▁{i:05d}" for i in range(pieces - len(PIECES)))]
    scores = [(piece, -1.0 - i / 100) for i, piece in enumerate(listed)]
    T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores]).save_pretrained(folder)
    return folder
