"""Tokenizers of transformers: their ids, their special tokens, and what is said where there is none."""

import os

import numpy as np
import pytest

from data import load
from data.shards import Stream
from data.tokenizer import build
from data.tokenizer_export import as_transformers
from models import padded_vocabulary
from tests.t5 import PIECES, write_t5

pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "[", "]", "mask", "."]


@pytest.fixture
def wordpiece(tmp_path):
    """A folder with a WordPiece tokenizer as BERT's, of 13 tokens."""
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
             "mask_token": "[MASK]"}  # fmt: skip
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "wordpiece")
    return tmp_path / "wordpiece"


def test_ids_and_special_tokens(wordpiece):
    tokenizer = build(f"hf:{wordpiece}")
    assert tokenizer.encode("The cats sat.").tolist() == [5, 6, 7, 8, 12]
    assert tokenizer.encode("[MASK]").tolist() == [9, 11, 10]  # spelled out, it is text
    assert tokenizer.encode("dog \ud800").tolist() == [1, 1]
    assert (tokenizer.vocabulary, tokenizer.end, tokenizer.dtype) == (13, 3, "uint16")
    assert tokenizer.special == (4, 2, 3)


def test_a_corpus_keeps_them(wordpiece, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat.\n" * 40)
    (tmp_path / "b.txt").write_text("cats.\n")
    keywords = {
        "files": [str(tmp_path / "a.txt")],
        "val_files": [str(tmp_path / "b.txt")],
        "tokenizer": f"hf:{wordpiece}",
        "dir": str(tmp_path / "tokens"),
        "rows": "documents",
    }
    dataset = load("local", quiet=True, **keywords)
    assert dataset.special == (4, 2, 3)
    assert Stream(dataset.train).read(0, 5).tolist() == [5, 6, 8, 12, 3]
    assert load("local", quiet=True, **keywords) == dataset  # opened, not made again
    vocabulary = (wordpiece / "tokenizer.json").read_text()
    (wordpiece / "tokenizer.json").write_text(
        vocabulary.replace('"cat": 6', '"cat": 8').replace('"sat": 8', '"sat": 6')
    )
    changed = load("local", quiet=True, **keywords)
    assert Stream(changed.train).read(0, 5).tolist() == [5, 8, 6, 12, 3]


def test_without_special_tokens_they_come_after_the_last(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"some text {name}\n" * 9)
    dataset = load("local", quiet=True, files=[str(tmp_path / "a.txt")], val_files=[str(tmp_path / "b.txt")],
                   tokenizer="bytes", dir=str(tmp_path / "tokens"))  # fmt: skip
    assert dataset.special == (256, 257, 258)


def test_t5_ends_documents_and_reads_no_special_token_in_a_text(tmp_path):
    from transformers import AutoTokenizer

    folder = write_t5(tmp_path / "a" / "t5")
    tokenizer, theirs = build(f"hf:{folder}"), AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.end, theirs.eos_token, theirs.bos_token) == (1, "</s>", None)
    assert (tokenizer.vocabulary, tokenizer.special) == (3 + len(PIECES) + 100, None)
    text = "def sing(self): return the ring  of é\n\n1\n"
    assert tokenizer.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    spelled = tokenizer.encode("a </s> <pad> <extra_id_0>").tolist()
    assert min(spelled) > 2  # <unk> is 2
    assert theirs.convert_tokens_to_ids(["▁", "<", "/", "s", ">"]) == spelled[2:7]

    for name, word in ("a", "the"), ("b", "of"):
        (tmp_path / f"{name}.txt").write_text(f"{word}\n{word}\n")
    keywords = {"files": str(tmp_path / "a.txt"), "val_files": str(tmp_path / "b.txt"), "rows": "documents",
                "dir": str(tmp_path / "tokens")}  # fmt: skip
    dataset = load("local", quiet=True, tokenizer=f"hf:{folder}", **keywords)
    assert Stream(dataset.train).read(0, 4).tolist() == [3, 1, 3, 1]
    moved = load("local", quiet=True, tokenizer=f"hf:{write_t5(tmp_path / 'b' / 't5')}", **keywords)
    assert moved.folder != dataset.folder
    assert moved.fingerprint == dataset.fingerprint  # the same tokens, by a tokenizer that lies elsewhere


def test_t5s_own_size_fits_16_bits_and_whole_blocks_of_rows(tmp_path):
    tokenizer = build(f"hf:{write_t5(tmp_path, 32_000 - 3)}")
    assert (tokenizer.vocabulary, tokenizer.dtype) == (32_100, "uint16")
    assert padded_vocabulary("auto", tokenizer.vocabulary) == 32_128


def test_what_is_no_tokenizer_gets_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^data\.tokenizer=hf:.*empty: the folder holds no tokenizer"):
        build(f"hf:{tmp_path / 'empty'}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"^data\.tokenizer=hf:nobody/nothing: there is no such folder"):
        build("hf:nobody/nothing")
    with pytest.raises(ValueError, match=r"^tokenizer must be bytes, words, an encoding of tiktoken's or hf:FOLDER"):
        build("no_such_encoding")


def test_ids_are_those_of_transformers(wordpiece):
    from transformers import AutoTokenizer

    text = "the cat sat. cats sat " * 50
    theirs = AutoTokenizer.from_pretrained(wordpiece)(text, add_special_tokens=False)["input_ids"]
    assert np.array_equal(build(f"hf:{wordpiece}").encode(text), theirs)


TEXT = "Hello, world!  It's 2026:\n\n\tdef f(x): return x**2  # naïve café 你好 🙂 end "


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_ours_become_transformers_with_the_same_ids(name, tmp_path):
    from transformers import AutoTokenizer

    if name == "gpt2" and "TIKTOKEN_CACHE_DIR" not in os.environ:
        pytest.skip("TIKTOKEN_CACHE_DIR is not set: no BPE files")
    as_transformers(name).save_pretrained(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), build(name)
    for text in (TEXT, "".join(map(chr, range(1, 700)))):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text).tolist()
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == ours.end
