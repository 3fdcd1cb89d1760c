"""Tokens of 32 bits, from the file to the batch; and files whose tokens are wider than they are taken for."""

import pickle

import numpy as np
import pytest
import torch

from data import load
from data.loader import Loader, evaluation_batches
from data.shards import HEADER_BYTES, Layout, Shard, Stream, inspect, measure, smallest_dtype, tokens
from data.writer import Writer

LLAMA = 128_256  # ids of Llama 3's tokenizer


def ids(count, vocabulary, seed=0):
    return np.random.RandomState(seed).randint(0, vocabulary, count)


def bare(path, values, dtype):
    """A file without a header."""
    path.write_bytes(np.asarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    return path


def llama_shard(path, values):
    header = np.zeros(256, "<i4")
    header[:3] = 20240801, 7, len(values)
    path.write_bytes(header.tobytes() + np.asarray(values, "<u4").tobytes())
    return path


def test_llm_cs_shards_for_llama_read(tmp_path):
    values = ids(1000, LLAMA)
    shard = Shard(llama_shard(tmp_path / "a.bin", values))
    assert measure(shard) == Layout(HEADER_BYTES, 1000, "uint32")
    assert tokens(shard).tolist() == values.tolist()
    assert inspect(shard)[1] == values.max() > 1 << 16
    for content, sentence in [
        (shard.path.read_bytes()[:-2], "no whole number of uint32"),
        (shard.path.read_bytes()[:-4], "cut short: its header promises 1000 tokens, the file holds 999"),
    ]:
        shard.path.write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            measure(shard)


def test_what_is_written_with_32_bits_is_read_with_32(tmp_path, monkeypatch):
    monkeypatch.setattr("data.writer.SHARD_TOKENS", 100)
    values = ids(330, LLAMA)
    killed = Writer(tmp_path, "train", 0, "uint32")
    killed.write(values[:250])
    killed.sync()
    resumed = Writer(tmp_path, "train", 230, "uint32")
    resumed.write(values[230:])
    shards = resumed.finish()
    assert [measure(shard).dtype for shard in shards] == ["uint32"] * 4
    assert Stream(shards).read(0, 330).tolist() == values.tolist()
    with pytest.raises(ValueError, match="is not the shard that was written before"):
        Writer(tmp_path, "train", 330, "uint16")


def test_batches_hold_the_ids_of_32_bits(tmp_path):
    """A stream may mix both widths: int64 in a batch is wide enough for either."""
    values = ids(1001, LLAMA)
    narrow, wide = (
        bare(tmp_path / "a.bin", values[:400] % 50_000, "uint16"),
        llama_shard(tmp_path / "b.bin", values[400:]),
    )
    shards = [Shard(narrow), Shard(wide)]
    expected = np.concatenate([values[:400] % 50_000, values[400:]])
    inputs, targets = Loader(shards, context=100, sequences=10, seed=0).batch(0)
    firsts = torch.from_numpy(np.random.RandomState([0, 0]).permutation(10) * 100)
    for row, first in zip(range(10), firsts.tolist(), strict=True):
        assert inputs[row].tolist() == expected[first : first + 100].tolist()
        assert targets[row].tolist() == expected[first + 1 : first + 101].tolist()
    (inputs, _), *_ = evaluation_batches(shards, context=100, tokens=None, micro=10)
    assert inputs.flatten().tolist() == expected[:1000].tolist()


@pytest.mark.parametrize("vocabulary", [2, 50_257, 65_536, LLAMA, 200_000, 1_000_000])
def test_a_bare_file_of_32_bits_is_never_taken_for_16(tmp_path, vocabulary):
    train = bare(tmp_path / "train.bin", ids(4000, vocabulary), "uint32")
    val = bare(tmp_path / "val.bin", ids(400, vocabulary, seed=1), "uint32")
    keywords = {"train": str(train), "val": str(val), "vocabulary": vocabulary, "dir": str(tmp_path / "t")}
    with pytest.raises(ValueError, match=r"train.bin .*looks like 32-bit tokens .*give data.dtype=uint32, or data"):
        load("shards", **keywords | {"vocabulary": min(vocabulary, 65_536)})
    dataset = load("shards", **keywords, dtype="uint32")
    assert dataset.train_tokens == 4000
    assert Stream(dataset.train).read(0, 4000).tolist() == ids(4000, vocabulary).tolist()
    assert load("shards", **keywords, dtype="uint32") == dataset  # and by its record
    narrow = load("shards", **keywords | {"vocabulary": 65_536}, dtype="uint16")  # where a person says so
    assert narrow.train_tokens == 8000


def test_equal_bytes_of_another_width_have_another_fingerprint(tmp_path):
    for name in ("train", "val"):
        bare(tmp_path / f"{name}.bin", ids(400, 60_000, seed=len(name)), "uint32")
    keywords = {"train": f"{tmp_path}/train.bin", "val": f"{tmp_path}/val.bin", "vocabulary": 65_536, "quiet": True}
    made = [load("shards", **keywords, dtype=dtype, dir=str(tmp_path / "t")) for dtype in ("uint16", "uint32")]
    assert made[0].fingerprint != made[1].fingerprint
    assert [each.train_tokens for each in made] == [800, 400]
    with pytest.raises(ValueError, match=r"holds the token id .* or data.dtype, if its tokens are not uint32"):
        load("shards", **keywords | {"vocabulary": 50_000}, dtype="uint32", dir=str(tmp_path / "t"))


def test_zeros_at_the_beginning_hide_nothing(tmp_path):
    path = bare(tmp_path / "a.bin", [0] * 5000 + ids(5000, 50_257).tolist(), "uint32")
    with pytest.raises(ValueError, match="looks like 32-bit"):
        measure(Shard(path))


@pytest.mark.parametrize("vocabulary", [2, 65, 256, 50_257, 65_536])
def test_a_bare_file_of_16_bits_is_not_suspected(tmp_path, vocabulary):
    for seed in range(20):
        path = bare(tmp_path / "a.bin", ids(2000, vocabulary, seed), "uint16")
        assert measure(Shard(path)) == Layout(0, 2000, "uint16")


@pytest.mark.parametrize("dtype", [None, "uint32"])
def test_64_bits_are_named_with_the_remedy(tmp_path, dtype):
    path = bare(tmp_path / "a.bin", ids(1000, LLAMA), "int64")
    with pytest.raises(ValueError, match=r"looks like 64-bit tokens.*np.uint32"):
        measure(Shard(path, dtype))


def test_a_vocabulary_that_16_bits_cannot_name_asks_for_the_width(tmp_path):
    for name in ("train", "val"):
        bare(tmp_path / f"{name}.bin", ids(4000, 60_000, seed=len(name)), "uint16")
    keywords = {
        "train": f"{tmp_path}/train.bin",
        "val": f"{tmp_path}/val.bin",
        "dir": str(tmp_path / "t"),
        "quiet": True,
    }
    with pytest.raises(ValueError, match=r"cannot name all ids below vocabulary=128256; give data.dtype=uint32"):
        load("shards", **keywords, vocabulary=LLAMA)
    assert load("shards", **keywords, vocabulary=LLAMA, dtype="uint16").train_tokens == 4000


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nanogpts_meta_file_tells_of_a_wide_vocabulary(tmp_path, protocol):
    """The file is looked through, not unpickled: unpickling runs what is in it."""
    path = bare(tmp_path / "train.bin", ids(1000, 60_000), "uint16")
    for size, suspected in [(65, False), (1000, False), (LLAMA, True)]:
        meta = {"itos": {0: "a"}, "vocab_size": size, "stoi": {"a": 200_000}}
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta, protocol))
        if suspected:
            with pytest.raises(ValueError, match=rf"meta.pkl beside it has vocab_size {LLAMA}.*data.dtype"):
                measure(Shard(path))
            assert measure(Shard(path, "uint16")).tokens == 1000
        else:
            assert measure(Shard(path)).tokens == 1000
    far = b"\x96" + bytes(7) + b"\x01"  # announces 2^56 bytes
    for broken in (b"", far, b"\x80\x04\x95", b"cos\nsystem\n(S'exit'\ntR.", bytes(range(256))):
        (tmp_path / "meta.pkl").write_bytes(broken)
        assert measure(Shard(path)).tokens == 1000


def test_a_header_decides_whatever_the_key_says_of_files_without_one(tmp_path):
    path = llama_shard(tmp_path / "a.bin", ids(100, LLAMA))
    for dtype in ("uint16", "uint32", None):
        assert measure(Shard(path, dtype)) == Layout(HEADER_BYTES, 100, "uint32")


def test_a_tokenizer_beyond_16_bits_makes_shards_of_32(tmp_path, monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): 70_000 + byte for byte in range(256)}
    large = tiktoken.Encoding(
        "large", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 70_256}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: large)
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "b.txt").write_text("z")
    keywords = {"files": f"{tmp_path}/a.txt", "val_files": f"{tmp_path}/b.txt", "dir": str(tmp_path / "t")}
    dataset = load("local", quiet=True, tokenizer="cl100k_base", **keywords)
    assert dataset.vocabulary == 70_257
    assert Stream(dataset.train).read(0, 4).tolist() == [70_000 + ord(c) for c in "abc"] + [70_256]
    assert Stream(dataset.val).read(0, 2).tolist() == [70_000 + ord("z"), 70_256]


def test_synthetic_tokens_of_a_large_vocabulary(tmp_path):
    dataset = load("synthetic", quiet=True, tokens=9000, val_tokens=900, vocabulary=LLAMA, dir=str(tmp_path))
    values = Stream(dataset.train).read(0, 9000)
    assert values.dtype == np.uint32
    assert 1 << 16 < values.max() < LLAMA
    assert [smallest_dtype(vocabulary) for vocabulary in (2, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
