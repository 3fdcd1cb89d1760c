"""Any bytes in a file that data/ reads: the right rows or one sentence, and nothing is written elsewhere."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conventions.sentence import sentence
from data import load
from data.rows import read
from data.shards import Shard, Stream, inspect, measure, tokens

fuzzed = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
TEXT = st.text(st.characters(codec=None), max_size=40)  # half surrogate pairs too
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def harmed(draw, whole):
    """Some bytes, with up to three places changed, left out, put in, or everything after them cut off."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        content[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=20))
        if draw(st.booleans()):
            del content[at:]
    return bytes(content)


def answers(work):
    """The result of `work`; None where it is refused in one sentence."""
    try:
        return work()
    except (ValueError, FileNotFoundError) as error:
        kind, words = type(error), sentence(error)
    assert kind in (ValueError, FileNotFoundError), words
    assert words
    assert "\n" not in words
    return None


@st.composite
def shard_bytes(draw):
    count, width = draw(st.integers(0, 400)), draw(st.sampled_from([2, 4, 8]))
    header = np.zeros(256, "<i4")
    header[:3] = (
        draw(st.sampled_from([20240520, 20240801, 20240522, 0])),
        draw(st.sampled_from([1, 7, 0])),
        draw(st.sampled_from([count, count, 2 * count, -count])),
    )
    highest = draw(st.sampled_from([1, 256, 50257, 2**31]))
    body = np.random.RandomState(draw(st.integers(0, 9))).randint(0, highest, count).astype(f"<u{width}").tobytes()
    return header.tobytes() * draw(st.booleans()) + body


@fuzzed
@given(harmed(shard_bytes() | st.binary(max_size=200)), st.sampled_from([None, "uint16", "uint32"]), st.binary())
def test_any_bytes_as_a_shard(tmp_path_factory, content, dtype, meta):
    folder = tmp_path_factory.mktemp("shard")
    (folder / "meta.pkl").write_bytes(meta)
    (folder / "a.bin").write_bytes(content)
    shard = Shard(folder / "a.bin", dtype)

    def work():
        layout, values = measure(shard), tokens(shard)
        assert (len(values), values.dtype) == (layout.tokens, np.dtype(layout.dtype))
        assert inspect(shard)[1] == values.max()
        assert Stream([shard]).read(0, layout.tokens).tolist() == values.tolist()

    answers(work)
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "meta.pkl"]


@st.composite
def lines(draw):
    documents = draw(st.lists(TEXT.map(lambda text: {"text": text}) | JSON, max_size=6))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    written = end.join(json.dumps(each, ensure_ascii=draw(st.booleans())) for each in documents)
    return written.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
@fuzzed
@given(st.data())
def test_any_bytes_as_text(suffix, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("text")
    packed = data.draw(st.sampled_from(sorted(COMPRESS)))
    path = folder / f"a{suffix}{packed}"
    path.write_bytes(data.draw(harmed(harmed(lines()).map(COMPRESS[packed]))))

    def work():
        rows = list(read(path, "text"))
        for stop in range(0, len(rows), 3):
            after = json.loads(json.dumps(rows[stop].after))
            assert [row.text for row in read(path, "text", after)] == [row.text for row in rows[stop + 1 :]]
        how = {"rows": data.draw(st.sampled_from(["lines", "documents", "articles"])), "tokenizer": "bytes"}
        load("local", quiet=True, files=str(path), val_share=0.4, dir=str(folder / "tokens"), **how)

    answers(work)
    assert {each.name for each in folder.iterdir()} <= {path.name, "tokens"}


def test_any_bytes_as_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for compression in ("none", "snappy"):
        parquet.write_table(pyarrow.table({"text": ["a", "b"] * 99}), tmp_path / "a.parquet", compression=compression)
        whole = (tmp_path / "a.parquet").read_bytes()

        @fuzzed
        @given(harmed(st.just(whole)))
        def check(content):
            (tmp_path / "a.parquet").write_bytes(content)
            answers(lambda: list(read(tmp_path / "a.parquet", "text")))

        check()
        damaged = whole[:4] + b"\xff" * 40 + whole[44:]
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match="is cut short or damaged") as caught:
            list(read(tmp_path / "a.parquet", "text"))
        assert "\n" not in str(caught.value)  # pyarrow's own words end in one


@fuzzed
@given(st.data())
def test_any_record_of_a_prepared_corpus(tmp_path_factory, data):
    """It is taken as it was written, or refused: never another corpus than the one that was prepared."""
    folder = tmp_path_factory.mktemp("record")

    def opened():
        return load("synthetic", quiet=True, tokens=50, val_tokens=50, vocabulary=50, dir=str(folder))

    made = opened()
    path = made.folder / "dataset.json"
    record = json.loads(path.read_text())
    key = data.draw(st.sampled_from([*record, *record["train"][0], "dtype", "bytes"]))
    if key == "bytes":
        path.write_bytes(data.draw(harmed(st.just(path.read_bytes()))))
    else:
        (record if key in record else record["train"][0])[key] = data.draw(JSON | st.sampled_from(["../x", "a\0b"]))
        path.write_text(json.dumps(record))
    again = answers(opened)
    assert again is None or (again.fingerprint, again.train, again.val) == (made.fingerprint, made.train, made.val)
