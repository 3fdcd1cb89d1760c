"""data/shards.py: the format, what is refused, the stream over many shards, a writer that can be cut off."""

import gzip
import hashlib
from itertools import pairwise

import numpy as np
import pytest

from data import shards
from data.shards import HEADER_BYTES, Layout, Shard, Stream, inspect, measure, tokens
from data.writer import Writer


def shard(path, values, magic=20240520, version=1, promised=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(values) if promised is None else promised
    path.write_bytes(header.tobytes() + np.asarray(values, "<u2").tobytes())
    return Shard(path)


def test_a_shard_of_the_community_reads(tmp_path):
    ours = shard(tmp_path / "a.bin", [5, 50256, 7])
    assert measure(ours) == Layout(HEADER_BYTES, 3, "uint16")
    assert tokens(ours).tolist() == [5, 50256, 7]
    assert inspect(ours) == (hashlib.sha256(ours.path.read_bytes()).hexdigest(), 50256)


def test_nanogpts_headerless_file_reads(tmp_path):
    path = tmp_path / "train.bin"
    np.array([40, 1101, 50256, 9], np.uint16).tofile(path)
    assert measure(Shard(path)) == Layout(0, 4, "uint16")
    assert tokens(Shard(path)).tolist() == [40, 1101, 50256, 9]
    assert inspect(Shard(path)) == (hashlib.sha256(path.read_bytes()).hexdigest(), 50256)


def test_the_highest_token_is_found_beyond_the_first_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CHUNK_BYTES", 64)
    ours = shard(tmp_path / "a.bin", [1] * 300 + [999] + [2] * 50)
    assert inspect(ours) == (hashlib.sha256(ours.path.read_bytes()).hexdigest(), 999)


def test_what_is_no_shard_is_refused_by_name(tmp_path):
    def refused(content, sentence):
        path = tmp_path / "wrong.bin"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=sentence) as caught:
            measure(Shard(path))
        assert str(path) in str(caught.value)

    good = shard(tmp_path / "good.bin", range(100)).path.read_bytes()
    refused(good[:-2], "cut short: its header promises 100 tokens, the file holds 99")
    refused(good + b"\0\0", "unfinished or overwritten")
    refused(good[:500], "cut short inside its header")
    refused(good[:-1], "no whole number of uint16")
    refused(b"abc", "text")
    refused(b"", "empty")
    refused(shard(tmp_path / "b.bin", []).path.read_bytes(), "holds no tokens")
    refused(b'{"text": "a document"}\n' * 10, "not a token shard but text")
    refused(gzip.compress(b"tokens"), "gzip")
    refused(b"PAR1" + bytes(100), "Parquet")
    refused(shard(tmp_path / "b.bin", [1, 2], version=2).path.read_bytes(), "version 2")
    refused(shard(tmp_path / "b.bin", [1, 2], magic=20240801).path.read_bytes(), "version 1, but only version 7")
    refused(shard(tmp_path / "b.bin", [1, 2], magic=20240522).path.read_bytes(), "header of another format")
    refused("caf\u00e9 \u2014 \u4e2d\u6587 ".encode() * 200, "text; data=local reads text")
    with pytest.raises(FileNotFoundError, match="missing"):
        measure(Shard(tmp_path / "absent.bin"))
    with pytest.raises(ValueError, match=r"is a folder; name the shards in it"):
        measure(Shard(tmp_path))


def test_a_stream_reads_across_shards_as_one_array(tmp_path):
    values = np.arange(1000, dtype=np.uint16)
    cuts = [0, 1, 400, 401, 1000]
    paths = [shard(tmp_path / f"{first}.bin", values[first:last]) for first, last in pairwise(cuts)]
    stream = Stream(paths)
    assert len(stream) == 1000
    for start, length in [(0, 1000), (0, 1), (1, 399), (399, 3), (400, 1), (398, 10), (999, 1)]:
        assert stream.read(start, length).tolist() == values[start : start + length].tolist()
    for start, length in [(0, 1001), (-1, 5), (1000, 1)]:
        with pytest.raises(IndexError):
            stream.read(start, length)


def written(folder, pieces, monkeypatch, per_shard=10):
    monkeypatch.setattr("data.writer.SHARD_TOKENS", per_shard)
    folder.mkdir(exist_ok=True)
    writer = Writer(folder, "train")
    for piece in pieces:
        writer.write(np.array(piece, np.uint16))
    return writer.finish()


def test_a_writer_fills_shard_after_shard(tmp_path, monkeypatch):
    paths = written(tmp_path / "a", [range(3), range(3, 25), range(25, 30)], monkeypatch)
    assert [each.path.name for each in paths] == ["train_000000.bin", "train_000001.bin", "train_000002.bin"]
    assert [measure(each).tokens for each in paths] == [10, 10, 10]
    assert Stream(paths).read(0, 30).tolist() == list(range(30))
    assert [measure(each).tokens for each in written(tmp_path / "b", [range(24)], monkeypatch)] == [10, 10, 4]
    assert written(tmp_path / "c", [], monkeypatch) == []


@pytest.mark.parametrize("durable", [0, 4, 10, 17, 20])
def test_a_writer_that_was_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch, durable):
    whole = written(tmp_path / "whole", [range(33)], monkeypatch)
    folder = tmp_path / "cut"
    folder.mkdir()
    killed = Writer(folder, "train")
    killed.write(np.arange(27, dtype=np.uint16))
    killed.sync()  # 27 are on the disk, but only `durable` of them were ever recorded
    (folder / "train_000002.bin").open("ab").write(b"\7")  # a torn write
    resumed = Writer(folder, "train", durable)
    resumed.write(np.arange(durable, 33, dtype=np.uint16))
    paths = resumed.finish()
    assert [each.path.name for each in paths] == [each.path.name for each in whole]
    assert [each.path.read_bytes() for each in paths] == [each.path.read_bytes() for each in whole]


def test_a_growing_shard_is_not_taken_for_a_finished_one(tmp_path):
    writer = Writer(tmp_path, "val")
    writer.write(np.arange(5, dtype=np.uint16))
    writer.sync()
    with pytest.raises(ValueError, match="unfinished"):
        measure(Shard(tmp_path / "val_000000.bin"))


def test_a_writer_refuses_what_is_not_what_it_wrote(tmp_path, monkeypatch):
    written(tmp_path, [range(15)], monkeypatch)
    with pytest.raises(ValueError, match="holds less"):
        Writer(tmp_path, "train", 18)
    shard(tmp_path / "train_000000.bin", range(4))
    with pytest.raises(ValueError, match="not the shard"):
        Writer(tmp_path, "train", 15)
