"""A person's own files: every wrapping, every break of reading, and what a broken file is answered with."""

import bz2
import gzip
import io
import json
import lzma
import os

import pytest

from data import load
from data.rows import read
from data.shards import Stream
from tests.documents import documents_of

POEM = "".join(f"line {n} of a poem\n" + "\n" * (n % 3 == 0) for n in range(400))


def local(folder, **keywords):
    return load("local", quiet=True, dir=str(folder / "tokens"), **({"tokenizer": "bytes"} | keywords))


def refused(sentence, folder, kind=ValueError, **keywords):
    with pytest.raises(kind, match=sentence) as caught:
        local(folder, **keywords)
    assert "\n" not in str(caught.value)


def write_lines(path, texts, opener=open, key="text"):
    with opener(path, "wt") as file:
        for text in texts:
            file.write(json.dumps({key: text, "source": "here"}) + "\n")
    return path


def zst(path, mode):
    pyarrow = pytest.importorskip("pyarrow")
    return io.TextIOWrapper(pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd"))


@pytest.mark.parametrize(
    ("suffix", "opener"),
    [("", open), (".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open), (".zst", zst)],
)
def test_json_lines_in_every_wrapping(tmp_path, suffix, opener):
    texts = [f"document {n}: a\u00e9\n\nsecond paragraph" for n in range(300)]
    path = write_lines(tmp_path / f"a.jsonl{suffix}", texts, opener)
    dataset = local(tmp_path, files=str(path), val_share=0.1)
    train, val = documents_of(dataset.train), documents_of(dataset.val)
    assert sorted(train + val) == sorted(texts)
    assert train == [text for text in texts if text in set(train)]  # in the order of the file
    assert 10 < len(val) < 60


def test_a_parquet_file_that_is_broken_within_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"] * 99}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)  # its footer, at the end, is whole
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is cut short or damaged \(.+\); bring a whole copy$"):
        list(read(path, "text"))


def test_parquet_and_its_resumption(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f"row {n}" if n % 7 else None for n in range(1000)]
    parquet.write_table(pyarrow.table({"id": range(1000), "body": texts}), tmp_path / "a.parquet", row_group_size=137)
    rows = list(read(tmp_path / "a.parquet", "body"))
    assert [row.text for row in rows] == [text or "" for text in texts]
    for stop in (0, 1, 136, 137, 500, 999):
        assert list(read(tmp_path / "a.parquet", "body", rows[stop].after)) == rows[stop + 1 :]
    dataset = local(tmp_path, files=str(tmp_path / "a.parquet"), column="body", val_share=0.1)
    assert sorted(documents_of(dataset.train) + documents_of(dataset.val)) == sorted(filter(None, texts))
    refused("has no column 'text' .it has id, body.; set data.column", tmp_path, files=str(tmp_path / "a.parquet"))
    refused("'id' holds int, not text", tmp_path, files=str(tmp_path / "a.parquet"), column="id")


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".gz", gzip.open), (".bz2", bz2.open), (".zst", zst)])
def test_reading_begins_again_after_any_row(tmp_path, suffix, opener):
    jsonl = write_lines(tmp_path / f"a.jsonl{suffix}", [f"\u00e9 {n}" for n in range(50)], opener)
    with opener(tmp_path / f"b.txt{suffix}", "wt") as file:
        file.write("\u00e9\u00e9 first\n\nsecond\n" * 20 + "no newline at the end")
    for path in (jsonl, tmp_path / f"b.txt{suffix}"):
        rows = [row._replace(done=None) for row in read(path, "text")]
        assert len(rows) in (50, 61)
        for stop in range(0, len(rows), 7):
            after = json.loads(json.dumps(rows[stop].after))
            assert [row._replace(done=None) for row in read(path, "text", after)] == rows[stop + 1 :]


def test_a_long_line_is_read_in_pieces_that_split_no_character(tmp_path, monkeypatch):
    monkeypatch.setattr("data.rows.LINE_BYTES", 7)
    text = "\u4e2d\u6587" * 20 + "\n" + "\u00e9" * 31
    (tmp_path / "a.txt").write_text(text)
    rows = list(read(tmp_path / "a.txt", "text"))
    assert "".join(row.text for row in rows) == text
    for stop, row in enumerate(rows):
        assert "".join(row.text for row in read(tmp_path / "a.txt", "text", row.after)) == "".join(
            row.text for row in rows[stop + 1 :]
        )


def test_text_files_as_documents_lines_and_articles(tmp_path):
    (tmp_path / "val.txt").write_text("held out\n")
    (tmp_path / "a.txt").write_text(" = One = \n\nfirst\n = = Part = = \nmore\n = Two = \nsecond\n")
    (tmp_path / "b.txt").write_text("third")
    (tmp_path / ".c.txt").write_text("")

    def documents(rows):
        files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
        return documents_of(local(tmp_path, files=files, val_files=str(tmp_path / "val.txt"), rows=rows).train)

    whole = (tmp_path / "a.txt").read_text()
    assert documents("lines") == [whole, "third"]
    assert documents("articles") == [whole[: whole.index(" = Two")], whole[whole.index(" = Two") :], "third"]
    assert documents("documents") == [*filter(None, whole.splitlines()), "third"]


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_lines_that_end_in_cr_alone_are_lines(tmp_path, monkeypatch, opener):
    """As on old Macs. The text keeps its ends; only where it is cut, and what is held out, follows from them."""
    monkeypatch.setattr("data.text.PASSAGE", 200)
    texts = [f"line {n}: \u00e9\u4e2d" for n in range(500)]
    suffix = ".gz" if opener is gzip.open else ""
    for line_bytes in (1 << 20, 64):  # and read in many pieces
        monkeypatch.setattr("data.rows.LINE_BYTES", line_bytes)
        with opener(tmp_path / f"a.txt{suffix}", "wb") as file:
            file.write("\r".join(texts).encode())
        with opener(tmp_path / f"b.jsonl{suffix}", "wb") as file:
            file.write("\r".join(json.dumps({"text": text}) for text in texts).encode())
        poem, table = str(tmp_path / f"a.txt{suffix}"), str(tmp_path / f"b.jsonl{suffix}")
        for rows in (
            list(read(tmp_path / f"a.txt{suffix}", "text")),
            list(read(tmp_path / f"b.jsonl{suffix}", "text")),
        ):
            assert [row.text.removesuffix("\r") for row in rows] == texts
        cut = local(tmp_path, files=poem, val_share=0.2)
        pieces = documents_of(cut.train) + documents_of(cut.val)
        assert sum(map(len, pieces)) == len("\r".join(texts))
        assert len(pieces) > 10
        documents = local(tmp_path, files=poem, rows="documents", val_share=0.2)
        assert sorted(documents_of(documents.train) + documents_of(documents.val)) == sorted(texts)
        objects = local(tmp_path, files=table, val_share=0.2)
        assert objects.fingerprint == documents.fingerprint
        after = [row.after for row in read(tmp_path / f"a.txt{suffix}", "text")]
        for stop in (0, 7, 250, 498):
            left = list(read(tmp_path / f"a.txt{suffix}", "text", after[stop]))
            assert [row.text.removesuffix("\r") for row in left] == texts[stop + 1 :]


@pytest.mark.parametrize("opener", [open, gzip.open, bz2.open])
def test_a_long_line_with_cr_in_it_is_one_line(tmp_path, opener):
    """As a progress bar writes it: there is a \\n, even if it comes late."""
    suffix = {open: "", gzip.open: ".gz", bz2.open: ".bz2"}[opener]
    with opener(tmp_path / f"a.txt{suffix}", "wb") as file:
        file.write(b"10 %\r20 %\r" * 50_000 + b"\nsecond\n")
    rows = [row.text for row in read(tmp_path / f"a.txt{suffix}", "text")]
    assert [len(row) for row in rows] == [500_001, 7]


def test_one_long_text_is_held_out_in_passages_and_none_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("data.text.PASSAGE", 200)
    (tmp_path / "poem.txt").write_text(POEM)
    dataset = local(tmp_path, files=str(tmp_path / "poem.txt"), val_share=0.2)
    train, val = documents_of(dataset.train), documents_of(dataset.val)
    assert len(val) > 2
    assert sum(map(len, train + val)) == len(POEM)
    assert all(part in POEM for part in train + val)


def test_changed_input_is_never_stale(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [f"document {n}" for n in range(100)])
    before = local(tmp_path, files=str(path), val_share=0.2)
    write_lines(path, [f"document {n}" for n in range(101)])
    after = local(tmp_path, files=str(path), val_share=0.2)
    assert after.folder != before.folder
    assert after.fingerprint != before.fingerprint
    assert local(tmp_path, files=str(path), val_share=0.3).folder != after.folder
    os.utime(path, (1, 1))
    touched = local(tmp_path, files=str(path), val_share=0.2)
    assert touched.folder != after.folder
    assert touched.fingerprint == after.fingerprint


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", [f"document {n}" for n in range(100)])

    def growing(*arguments):
        yield from read(*arguments)
        with open(path, "a") as file:
            file.write('{"text": "late"}\n')

    monkeypatch.setattr("data.local.read", growing)
    refused("changed while it was read", tmp_path, files=str(path))


def test_a_token_limit(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [f"document {n}" for n in range(2000)])
    whole = local(tmp_path, files=str(path), val_share=0.1)
    part = local(tmp_path, files=str(path), val_share=0.1, tokens=1000)
    assert part.train_tokens == 1000
    assert Stream(part.train).read(0, 1000).tolist() == Stream(whole.train).read(0, 1000).tolist()
    refused("tokens must be at least 1", tmp_path, files=str(path), tokens=0)


def test_broken_files_are_named_with_line_and_remedy(tmp_path):
    def broken(name, content):
        (tmp_path / name).write_bytes(content)
        return {"files": str(tmp_path / name), "folder": tmp_path}

    good = b'{"text": "a document"}\n'
    refused(r"a.jsonl, line 3 is not JSON", **broken("a.jsonl", good * 2 + b'{"text": \n'))
    refused(
        r"b.jsonl, line 2 has no key 'text' .it has body.; set data.column",
        **broken("b.jsonl", good + b'{"body": 1}\n'),
    )
    refused(
        r"deep.jsonl, line 2 is nested too deeply to be read; take that line out",
        **broken("deep.jsonl", good + b'{"text": ' + b"[" * 200_000),
    )
    many = json.dumps({f"key{n}\n": n for n in range(20)})
    refused(r"n.jsonl, line 1 has no key 'text' .it has 'key0.n', .* and 12 more.", **broken("n.jsonl", many.encode()))
    refused(r"c.jsonl, line 1 has no key 'text' .it is no object", **broken("c.jsonl", b"[1, 2]\n"))
    refused(r"d.jsonl, line 1: 'text' holds int, not text", **broken("d.jsonl", b'{"text": 1}\n'))
    refused(r"e.txt, line 2 is not UTF-8 .*iconv", **broken("e.txt", b"fine\n\xff\xfe\n"))
    refused(r"f.txt, line 1 is not UTF-8", **broken("f.txt", "\u00e9".encode()[:1]))
    refused(r"g.jsonl.gz is cut short or damaged", **broken("g.jsonl.gz", gzip.compress(good * 999)[:-20]))
    refused(r"h.jsonl.bz2 is cut short or damaged", **broken("h.jsonl.bz2", bz2.compress(good * 999)[:-9]))
    refused(r"i.jsonl.xz is cut short or damaged", **broken("i.jsonl.xz", lzma.compress(good * 999)[:-9]))
    refused(r"j.jsonl.gz is cut short or damaged", **broken("j.jsonl.gz", good))
    refused(r"k.parquet is cut short or no Parquet file", **broken("k.parquet", b"PAR1 and then nothing"))
    refused("no text for the training split", **broken("l.jsonl", b'{"text": ""}\n'))
    refused(
        "no text for the validation split .* equal ones .* too few different ones; .* larger val_share",
        **broken("m.jsonl", good * 99),
        val_share=1e-9,
    )
    refused("val_share must be above 0", **broken("n.jsonl", good), val_share=0.0)
    refused("is also in files", **broken("o.jsonl", good), val_files=str(tmp_path / "o.jsonl"))
    with zst(tmp_path / "whole.zst", "wt") as file:
        file.write(good.decode() * 999)
    refused(
        r"p.jsonl.zst is cut short or damaged",
        **broken("p.jsonl.zst", (tmp_path / "whole.zst").read_bytes()[:-9]),
    )


@pytest.mark.skipif(
    "HALFSTEP_CORPUS" not in os.environ or "TIKTOKEN_CACHE_DIR" not in os.environ,
    reason="HALFSTEP_CORPUS and TIKTOKEN_CACHE_DIR are not set",
)
def test_the_stand_in_corpus_has_the_tokens_its_readme_counts(tmp_path):
    """2,558 documents of 2,095,253 GPT-2 tokens, and an end-of-text after each."""
    path = os.path.join(os.environ["HALFSTEP_CORPUS"], "validation.jsonl.bz2")
    dataset = local(tmp_path, files=path, tokenizer="gpt2", val_share=0.5)
    assert dataset.train_tokens + dataset.val_tokens == 2_095_253 + 2_558
    tokens = (
        Stream(dataset.train).read(0, dataset.train_tokens),
        Stream(dataset.val).read(0, dataset.val_tokens),
    )
    assert sum(int((half == 50256).sum()) for half in tokens) == 2_558
