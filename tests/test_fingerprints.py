"""The fingerprints that published runs name: what was read rightly keeps its tokens, and so its fingerprint."""

import gzip
import json
import os
import sysconfig

import numpy as np
import pytest

from data import load

POEM = "".join(
    f"line {n} of a poem\n" + "\n" * (n % 3 == 0) + "  indented\n" * (n % 5 == 0) for n in range(1200)
)  # fmt: skip
ARTICLES = "".join(
    f" = Title {n} = \n\nfirst {n}\r\nstray \r return\n = = Part = = \n" + "more words\n" * (n % 50) for n in range(300)
)
LINES = "".join(
    json.dumps({"text": f"document {n}: caf\u00e9\n\nsecond " + "word " * (n % 9)}) + "\n" for n in range(300)
)
PINNED = {
    "synthetic": "464808262e936706d2ece974f080e951fe124e13388c74fd5ba28f6853d2c569",
    "uniform": "5bed2fa4d0d7e5eb765611642ca8af6f8404f1add935761764c678dc9f3e55cc",
    "folder bytes": "a58fc34f34db8c03fec10dc6b49f718980962d697f94b4589c2c593e8a6d9357",
    "lines bytes": "36a1548b88d973666af63fc028328e559a8405347b4b331f471917259e3154b5",
    "documents bytes": "9c2337efcef3ed3f9127c27be161f74d667964e4577acc0059c24c3e75f09a8b",
    "articles bytes": "8e27a97fe8f971774cb9bd62f215bb56e64c4e9a7084c16d1dd0e3ee7851e141",
    "folder gpt2": "ecffcbeb4f48bc98c9cfb5a548444f45793327aebb1a4c01f02f8e1cf2d6dbea",
    "lines gpt2": "6f811e58906b00a7e3557bc2d9271f50da3153b21673361125cab173da032cc0",
    "documents gpt2": "1d3fe297d2aac773418ea0113c44b41d3e1358a38ef7ef2589ffbc5d32ea505e",
    "articles gpt2": "3b9f01b05eb9ef315279df9d2a2fa42bd2a031991826138adc1c25ccd4498ccf",
    "limit": "a4cf3a503b6ce98f92e54a0d6436b651d4497cc159aa799bb131c8935270d3cb",
    "shards": "e5c28432183cafd86c119306d039ca96f659b1a089fd67847d66bd5f0cb9ce5b",
    "nanogpt": "dfb205cccb97486d5fe43cf09f9922d84c68ea2342586a55f8198df9963fa61b",
    "stdlib": "1d339c3bda48315a8eb75bb43fe2a9ae17ef1043c8bd6d8fab189d0f5feacdc4",
}


@pytest.fixture
def fingerprint(tmp_path):
    return lambda name, **keywords: load(name, quiet=True, dir=str(tmp_path / "tokens"), **keywords).fingerprint


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_text(tmp_path, fingerprint, tokenizer):
    if tokenizer == "gpt2" and "TIKTOKEN_CACHE_DIR" not in os.environ:
        pytest.skip("TIKTOKEN_CACHE_DIR is not set: no BPE files")
    (tmp_path / "c/deep").mkdir(parents=True)
    (tmp_path / "c/a.jsonl").write_text(LINES)
    (tmp_path / "c/b.txt").write_text(POEM)
    (tmp_path / "c/deep/z.jsonl.gz").write_bytes(gzip.compress(LINES.replace("document", "other").encode()))
    (tmp_path / "w.txt").write_bytes(ARTICLES.encode())
    keywords = {"tokenizer": tokenizer, "val_share": 0.1}
    assert fingerprint("local", files=str(tmp_path / "c"), **keywords) == PINNED[f"folder {tokenizer}"]
    for rows in ("lines", "documents", "articles"):
        made = fingerprint("local", files=str(tmp_path / "w.txt"), rows=rows, **keywords)
        assert made == PINNED[f"{rows} {tokenizer}"]
    if tokenizer == "bytes":
        assert fingerprint("local", files=str(tmp_path / "c"), tokens=1000, **keywords) == PINNED["limit"]


def test_synthetic_and_shards(tmp_path, fingerprint):
    keywords = {"tokens": 5000, "val_tokens": 500, "vocabulary": 300}
    assert fingerprint("synthetic", **keywords) == PINNED["synthetic"]
    uniform = {"vocabulary": 65536, "structure": "uniform", "seed": 3}
    assert fingerprint("synthetic", **keywords | uniform) == PINNED["uniform"]
    folder = load("synthetic", quiet=True, dir=str(tmp_path / "tokens"), **keywords).folder
    val = str(folder / "val_*.bin")
    assert fingerprint("shards", train=str(folder / "train_*.bin"), val=val, vocabulary=300) == PINNED["shards"]
    np.random.RandomState(0).randint(0, 50257, 4000).astype(np.uint16).tofile(tmp_path / "train.bin")
    assert fingerprint("shards", train=str(tmp_path / "train.bin"), val=val) == PINNED["nanogpt"]


def test_stdlib(tmp_path, fingerprint, monkeypatch):
    """A library of four modules and a package, as the real one is another in every release of Python."""
    library = tmp_path / "library"
    (library / "json/tests").mkdir(parents=True)
    names = ["os.py", "abc.py", "csv.py", "io.py", "json/a.py", "json/tests/b.py", "turtle.py", "own.py"]
    for number, name in enumerate(names):
        (library / name).write_bytes(f"# {name}: caf\u00e9\r\n".encode() * (number + 5) + b"\xff\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr("data.stdlib.HELD_OUT", 0.5)
    assert fingerprint("stdlib") == PINNED["stdlib"]
