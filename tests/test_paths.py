"""conventions/paths.py, and that every path that data/ takes or writes goes through it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conventions.paths import as_text, expanded, forget_empty, from_text
from data import load
from tests.cases import quick_cases

ROOT = Path(__file__).resolve().parent.parent
LINES = "".join(f"line {n} of a text\n" for n in range(4000))


def test_home_and_variables_are_replaced_as_a_shell_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch")
    for text, path in [
        ("~", tmp_path),
        ("~/a/b", tmp_path / "a/b"),
        ("$HOME/a", tmp_path / "a"),
        ("${SCRATCH}/a$SCRATCH", Path("/scratch/a/scratch")),
        ("a~/b", Path("a~/b")),
        ("~backup.txt", Path("~backup.txt")),  # no user is called so
        ("~root/a", Path(os.path.expanduser("~root/a"))),
        ("100$.txt", Path("100$.txt")),
    ]:
        assert expanded(text, "data.dir") == path


def test_what_is_not_set_is_named_unless_it_is_the_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    for name in ("NOT_SET", "EMPTY"):
        with pytest.raises(ValueError, match=rf"data.dir=\${name}/x: the environment variable {name} is not set"):
            expanded(f"${name}/x", "data.dir")
    Path("price in $NOT_SET.txt").write_text("")
    assert expanded("price in $NOT_SET.txt", "data.files") == Path("price in $NOT_SET.txt")


def test_a_user_without_a_home_is_told_what_to_give(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for home in (None, ""):
        monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
        sentence = r"data.dir=~/x: .*no home folder \(HOME is not set\); give data.dir= .*, or set HALFSTEP_DATA$"
        with pytest.raises(ValueError, match=sentence):
            expanded("~/x", "data.dir", "HALFSTEP_DATA")
        monkeypatch.setenv("HOME", "/again")
    monkeypatch.delenv("HOME")
    with pytest.raises(ValueError, match=r"data.dir=~/.cache/halfstep: this user has no home"):
        load("synthetic", tokens=10, val_tokens=10, vocabulary=5, dir="~/.cache/halfstep")


def test_every_path_of_data_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CORPUS", str(tmp_path / "corpus"))
    (tmp_path / "corpus").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "corpus" / f"{name}.txt").write_text(name + LINES)
        np.random.RandomState(ord(name)).randint(0, 9999, 500).astype(np.uint16).tofile(tmp_path / f"corpus/{name}.bin")
    text = load("local", quiet=True, files="~/corpus/a.txt", val_files=["$CORPUS/b.txt"], tokenizer="bytes", dir="~/t")
    shards = load("shards", quiet=True, train="~/corpus/[ab].bin", val="${CORPUS}/c.bin", dir="$HOME/t")
    assert text.folder.parent == shards.folder.parent == tmp_path / "t"
    assert shards.val[0].path == tmp_path / "corpus/c.bin"
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=r"repository .*/corpus cannot be read"):
        load("hub", quiet=True, repository="~/corpus", files="*.parquet", tokenizer="bytes", dir="~/t")


def test_an_empty_folder_of_the_environment_counts_as_none(tmp_path):
    """HALFSTEP_DATA= leaves data.dir empty in the YAML, and an empty HF_HOME makes the current folder a cache."""
    program = (
        "import data; print(data.load('synthetic', quiet=True, tokens=9, val_tokens=9, vocabulary=5, dir='').folder)"
    )
    environment = os.environ | {"HOME": str(tmp_path), "HALFSTEP_DATA": ""}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f"{tmp_path}/.cache/halfstep/synthetic-"), done.stderr


def test_empty_variables_are_forgotten(monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("FULL", "x")
    forget_empty("EMPTY", "FULL", "NEVER_SET")
    assert "EMPTY" not in os.environ
    assert os.environ["FULL"] == "x"


NAMES = (b"caf\xc3\xa9 \xe4\xb8\xad.txt", b"latin-1 \xe9.txt", b"a\nb.txt", b"[red]{x}.txt")


@pytest.mark.parametrize("name", quick_cases(NAMES, NAMES[1:3]))
def test_what_is_written_of_a_path_is_read_again_under_every_locale(tmp_path, name):
    folder = os.fsencode(tmp_path) + b"/" + name.removesuffix(b".txt")
    os.mkdir(folder)
    with open(folder + b"/" + name, "w") as file:
        file.write(LINES)
    np.arange(500, dtype=np.uint16).tofile(os.fsdecode(folder + b"/a.bin"))
    np.arange(7, 500, dtype=np.uint16).tofile(os.fsdecode(folder + b"/b.bin"))
    assert from_text(as_text(Path(os.fsdecode(folder)))) == Path(os.fsdecode(folder))
    program = (
        "import os, sys, data; folder = os.environ['FOLDER'];"
        "text = data.load('local', files=folder, tokenizer='bytes', val_share=.3, dir=folder);"
        "shards = data.load('shards', train=folder + '/a.bin', val=folder + '/b.bin', vocabulary=999, dir=folder);"
        "print(*((ascii(os.fsencode(each.folder)), each.fingerprint) for each in (text, shards)))"
    )
    printed = []
    for locale in ({"PYTHONUTF8": "1"}, {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}):
        environment = {os.fsencode(k): os.fsencode(v) for k, v in (os.environ | locale).items()} | {b"FOLDER": folder}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert b"preparing" not in done.stderr  # the second found what the first had prepared
    for record in Path(os.fsdecode(folder)).glob("*/dataset.json"):
        json.loads(record.read_bytes().decode("ascii"))
