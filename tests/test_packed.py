"""data/packed.py: compressed files in one part or many, and whatever of them is not whole."""

import bz2
import gzip
import lzma

import pytest

from data.packed import unpack

FIRST, SECOND = b"first line\n" * 999, b"second line\n" * 999


def zst(content):
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


@pytest.fixture(params=["gz", "bz2", "xz", "zst"])
def suffix(request):
    if request.param == "zst":
        pytest.importorskip("pyarrow")
    return request.param


def compress(suffix, content):
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}[suffix](content)


def read(tmp_path, suffix, content):
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(content)
    with open(path, "rb") as raw:
        return unpack(path, raw).read()


def test_parts_are_read_one_after_the_other(tmp_path, suffix, monkeypatch):
    one, two = compress(suffix, FIRST), compress(suffix, SECOND)
    assert read(tmp_path, suffix, one + two) == FIRST + SECOND
    assert read(tmp_path, suffix.upper(), one) == FIRST
    assert read(tmp_path, suffix, compress(suffix, b"")) == b""
    monkeypatch.setattr("data.packed.CHUNK_BYTES", 7)
    assert read(tmp_path, suffix, one + two) == FIRST + SECOND


@pytest.mark.parametrize(
    "harm", ["empty", "cut short", "cut in the second", "something else after", "a damaged second"]
)
def test_what_is_not_whole_is_refused_and_never_left_out(tmp_path, suffix, harm):
    one, two = compress(suffix, FIRST), compress(suffix, SECOND)
    content = {
        "empty": b"",
        "cut short": one[:-9],
        "cut in the second": one + two[:2],
        "something else after": one + b"something else",
        "a damaged second": one + b"\1" + two[1:],
    }[harm]
    with pytest.raises((EOFError, OSError, lzma.LZMAError)) as caught:
        read(tmp_path, suffix, content)
    assert getattr(caught.value, "errno", None) is None


def test_padding_is_no_damage(tmp_path):
    for suffix in ("gz", "bz2", "xz"):
        content = compress(suffix, FIRST) + bytes(512)
        assert read(tmp_path, suffix, content) == FIRST
    assert read(tmp_path, "bz2", bz2.compress(FIRST) + bytes(512) + bz2.compress(SECOND)) == FIRST + SECOND
