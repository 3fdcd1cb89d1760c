"""data/files.py: which files are meant, and that nothing of them is left out in silence."""

import os

import numpy as np
import pytest

from data import load
from data.files import expand
from data.shards import Stream


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'{"text": "x"}\n')


def names_of(files, folder):
    """The names below the folder, and the notes."""
    notes = []
    return [path.relative_to(folder).as_posix() for path in expand(files, "files", notes)], notes


def test_files_are_found_by_path_glob_folder_and_list(tmp_path):
    made(tmp_path, "b.jsonl", "a.jsonl.gz", "sub/c.txt", "sub/notes.md", "sub/.hidden/f.txt", "d.parquet")
    assert names_of(str(tmp_path), tmp_path)[0] == ["a.jsonl.gz", "b.jsonl", "d.parquet", "sub/c.txt"]
    assert names_of(f"{tmp_path}/*.jsonl*", tmp_path)[0] == ["a.jsonl.gz", "b.jsonl"]
    assert names_of([f"{tmp_path}/b.jsonl", f"{tmp_path}/**/*.txt"], tmp_path)[0] == ["b.jsonl", "sub/c.txt"]
    assert names_of(f"{tmp_path}/**/c*", tmp_path)[0] == ["sub/c.txt"]
    assert names_of(f"{tmp_path}/*/**/*.txt", tmp_path)[0] == ["sub/c.txt"]  # `*` matches files, too
    with pytest.raises(FileNotFoundError, match="no file at /nowhere"):
        expand("/nowhere", "files", [])
    with pytest.raises(ValueError, match=r"notes.md is of no kind that can be read"):
        expand(f"{tmp_path}/sub/notes.md", "files", [])
    with pytest.raises(ValueError, match="files must not hold an empty path"):
        expand(["", "b.jsonl"], "files", [])


def test_a_suffix_in_capitals_and_ndjson_are_read(tmp_path):
    made(tmp_path, "a.jsonl", "B.JSONL", "c.ndjson", "d.Txt", "e.NDJSON.GZ")
    assert names_of(str(tmp_path), tmp_path) == (["B.JSONL", "a.jsonl", "c.ndjson", "d.Txt", "e.NDJSON.GZ"], [])


def test_a_linked_folder_is_read_once_whatever_leads_to_it(tmp_path):
    made(tmp_path, "elsewhere/x.jsonl", "elsewhere/deep/y.jsonl", "corpus/z/a.jsonl")
    corpus = tmp_path / "corpus"
    (corpus / "more").symlink_to(tmp_path / "elsewhere")
    (corpus / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (corpus / "a_link_to_z").symlink_to(corpus / "z")
    (corpus / "loop").symlink_to(corpus)
    (corpus / "up").symlink_to(tmp_path)
    expected = ["again/y.jsonl", "more/x.jsonl", "z/a.jsonl"]
    assert names_of(str(corpus), corpus)[0] == expected
    assert names_of(f"{corpus}/**/*.jsonl", corpus)[0] == expected  # Python's glob never ends here


def test_what_is_left_out_is_named(tmp_path):
    made(tmp_path, "a.jsonl", "b.md", "c.csv.gz", "d.parquet.gz", ".e.jsonl", "sub/.f/g.txt", "sub/.f/h.md", "i/j.txt")
    (tmp_path / "dead.jsonl").symlink_to("nowhere.jsonl")
    (tmp_path / "k.txt").write_bytes(b"")
    names, notes = names_of(str(tmp_path), tmp_path)
    assert names == ["a.jsonl", "i/j.txt", "k.txt"]
    others, hidden, dead, empty = notes
    assert others.startswith(f"data.files: left out {tmp_path}/b.md, {tmp_path}/c.csv.gz, {tmp_path}/d.parquet.gz (not")
    assert hidden == f"data.files: left out {tmp_path}/.e.jsonl, {tmp_path}/sub/.f/g.txt (the name begins with a dot)"
    assert dead == f"data.files: left out {tmp_path}/dead.jsonl (a link that leads nowhere)"
    assert empty == f"data.files: there is nothing in {tmp_path}/k.txt"
    names, notes = names_of(f"{tmp_path}/[adi]*l*", tmp_path)
    assert (names, len(notes)) == (["a.jsonl"], 1)
    assert "dead.jsonl (a link" in notes[0]
    (tmp_path / "b.md").unlink()
    (tmp_path / "c.csv.gz").unlink()
    (tmp_path / "d.parquet.gz").unlink()
    names, notes = names_of(f"{tmp_path}/*", tmp_path)
    assert names == ["a.jsonl", "k.txt"]
    folders = f"left out {tmp_path}/i, {tmp_path}/sub (a folder, and the pattern takes no file in it)"
    assert any(folders in note for note in notes)
    (tmp_path / "only").mkdir()
    made(tmp_path, "only/notes.md")
    with pytest.raises(FileNotFoundError, match=r"no file at .*/only; left out .*/notes.md \(not .jsonl"):
        expand(f"{tmp_path}/only", "files", [])


def test_a_file_that_is_listed_twice_is_read_once_and_named(tmp_path):
    made(tmp_path, "a.jsonl", "b.jsonl")
    names, notes = names_of([f"{tmp_path}/a.jsonl", f"{tmp_path}/*.jsonl"], tmp_path)
    assert names == ["a.jsonl", "b.jsonl"]
    assert notes == [f"data.files: {tmp_path}/a.jsonl is listed 2 times and read once"]


def test_a_folder_that_cannot_be_looked_into_is_refused(tmp_path):
    made(tmp_path, "a.jsonl", "closed/b.jsonl")
    (tmp_path / "closed").chmod(0)
    try:
        if os.access(tmp_path / "closed", os.R_OK):
            pytest.skip("this user may look into every folder")
        with pytest.raises(PermissionError):
            expand(str(tmp_path), "files", [])
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_notes_are_shown_where_a_corpus_is_prepared(tmp_path, capsys):
    made(tmp_path, "corpus/notes.md")
    (tmp_path / "corpus/a.txt").write_text("".join(f"line {n}\n" for n in range(9000)))
    keywords = {"files": str(tmp_path / "corpus"), "tokenizer": "bytes", "val_share": 0.3, "dir": str(tmp_path / "out")}
    load("local", **keywords)
    assert f"data.files: left out {tmp_path}/corpus/notes.md (not .jsonl" in capsys.readouterr().err
    load("local", **keywords)
    assert capsys.readouterr().err == ""  # they are prepared: nothing is read again


def test_shards_that_are_listed_twice_or_reached_by_a_link(tmp_path, capsys):
    for name in ("a.bin", "b.bin", "val.bin"):
        np.random.RandomState(len(name)).randint(0, 999, 500).astype(np.uint16).tofile(tmp_path / name)
    both = {"val": str(tmp_path / "val.bin"), "dir": str(tmp_path / "out")}
    twice = load("shards", train=[str(tmp_path / "b.bin"), str(tmp_path / "?.bin")], **both)
    assert [shard.path.name for shard in twice.train] == ["b.bin", "a.bin"]
    assert f"data.train: {tmp_path}/b.bin is listed 2 times and read once" in capsys.readouterr().err
    assert len(Stream(twice.train)) == 1000
    (tmp_path / "link.bin").symlink_to("val.bin")
    with pytest.raises(ValueError, match=r"val: .*/link.bin is also in train"):
        load("shards", train=str(tmp_path / "link.bin"), **both)


def test_a_prepared_corpus_in_the_folder_of_its_files_is_none_of_them(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {n}\n" for n in range(9000)))
    keywords = {
        "quiet": True,
        "files": str(tmp_path),
        "tokenizer": "bytes",
        "val_share": 0.3,
        "dir": str(tmp_path / "t"),
    }
    assert load("local", **keywords) == load("local", **keywords)
