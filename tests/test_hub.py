"""data/hub.py, through a folder that stands for a repository: rows to documents, cuts, and no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import load
from tests.documents import documents_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    from pyarrow import parquet

    folder = tmp_path / "repository"
    folder.mkdir()
    for part in range(2):
        texts = [f"document {part} {n} " + "word " * (n % 9) for n in range(500)]
        parquet.write_table(pyarrow.table({"text": texts}), folder / f"train-{part}.parquet", row_group_size=90)
    texts = [f"held out {n}" for n in range(20)]
    parquet.write_table(pyarrow.table({"text": texts}), folder / "validation-0.parquet")
    return folder


def hub(folder, repository, **keywords):
    result = {"repository": str(repository), "tokenizer": "bytes", "dir": str(folder / "tokens")} | keywords
    return load("hub", quiet=True, **result)


def test_a_repository_with_and_without_a_validation_split(tmp_path, repository):
    texts = [f"document {part} {n} " + "word " * (n % 9) for part in range(2) for n in range(500)]
    with_split = hub(tmp_path, repository, val_split="validation")
    assert documents_of(with_split.train) == texts
    assert documents_of(with_split.val) == [f"held out {n}" for n in range(20)]
    held = hub(tmp_path, repository, val_share=0.1)
    assert sorted(documents_of(held.train) + documents_of(held.val)) == sorted(texts)
    some = hub(tmp_path, repository, val_split="validation", files="{split}-0.parquet")
    assert documents_of(some.train) == texts[:500]


def test_rows_that_are_lines_become_articles(tmp_path, repository):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lines = [" = One = \n", "", " first line \n", " = = Part = = \n", " = Two = \n", " second"]
    for split in ("train-0", "train-1", "validation-0"):
        parquet.write_table(pyarrow.table({"text": lines}), repository / f"{split}.parquet")
    one, two = " = One = \n\n first line \n = = Part = = \n", " = Two = \n second\n"
    assert documents_of(hub(tmp_path, repository, val_split="validation", rows="articles").train) == [one, two] * 2
    assert documents_of(hub(tmp_path, repository, val_split="validation", rows="lines").val) == [one + two]


def test_a_hub_preparation_that_was_cut_goes_on(tmp_path, repository, monkeypatch):
    from data import prepare

    monkeypatch.setattr("data.text.BATCH", 700)
    monkeypatch.setattr("data.prepare.DURABLE_EVERY", 0.0)
    whole = hub(tmp_path, repository, val_share=0.1)
    stop = {"at": 9000}
    append = prepare.Writer.write

    def cut(writer, values):
        if writer.tokens > stop["at"]:
            raise ConnectionError("the cable was pulled")
        append(writer, values)

    for at in (5000, 15000):
        stop["at"] = at
        with monkeypatch.context() as patch:
            patch.setattr(prepare.Writer, "write", cut)
            with pytest.raises(ConnectionError):
                hub(tmp_path / "cut", repository, val_share=0.1)
    resumed = hub(tmp_path / "cut", repository, val_share=0.1)
    assert resumed.fingerprint == whole.fingerprint


def test_what_a_repository_lacks_is_a_sentence(tmp_path, repository):
    for keywords in (
        {"train_split": "trian"},
        {"subset": "large"},
        {"column": "body"},
        {"files": "none-*.parquet"},
    ):
        with pytest.raises(ValueError, match=r"repository .* cannot be read .*check data.subset") as caught:
            hub(tmp_path, repository, **keywords)
        assert "\n" not in str(caught.value)


def test_no_network_is_a_sentence_at_once(tmp_path):
    pytest.importorskip("datasets")
    program = "import data; data.load('hub', repository='owner/name', tokenizer='bytes', quiet=True, dir='{}')"
    done = subprocess.run(
        [sys.executable, "-c", program.format(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "ConnectionError: data.repository=owner/name: the Hugging Face Hub cannot be reached" in done.stderr
    assert "take data=stdlib" in done.stderr


def test_no_package_datasets_is_a_sentence(tmp_path, repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets, or take data=stdlib"):
        hub(tmp_path, repository, val_split="validation")
