"""The recipes without files of one's own: configs and signatures, stdlib, synthetic, shards."""

import inspect
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from data import RECIPES, find, load
from data.shards import Stream
from data.stdlib import source_files
from tests.documents import documents_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_yaml_is_its_signature(name):
    path = ROOT / "configs" / "data" / f"{name}.yaml"
    config = OmegaConf.load(path)
    keys = list(config)
    assert keys[0] == "name"
    assert config["name"] == name
    assert keys[1:] == list(inspect.signature(find(name)).parameters)
    for key, parameter in inspect.signature(find(name)).parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty
        if name in ("stdlib", "local", "shards", "synthetic", "hub") and key != "dir":
            required = parameter.default is inspect.Parameter.empty
            assert OmegaConf.is_missing(config, key) if required else config[key] == parameter.default
    for line in path.read_text().splitlines()[1:]:
        assert "#" in line or line.startswith(("name:", "repository:", "column:")), f"no word on {line}"


def test_every_recipe_has_a_yaml_and_the_other_way_round():
    assert {path.stem for path in (ROOT / "configs" / "data").glob("*.yaml")} == set(RECIPES)


def test_the_folder_comes_from_the_environment(monkeypatch):
    config = OmegaConf.load(ROOT / "configs" / "data" / "stdlib.yaml")
    monkeypatch.delenv("HALFSTEP_DATA", raising=False)
    assert config["dir"] == "~/.cache/halfstep"
    monkeypatch.setenv("HALFSTEP_DATA", "/scratch/tokens")
    assert config["dir"] == "/scratch/tokens"


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean openwebtext"):
        load("openwebtxt")


def test_importing_data_is_light():
    heavy = "{'torch', 'datasets', 'tiktoken', 'pyarrow', 'rich', 'huggingface_hub'} & set(sys.modules)"
    command = [sys.executable, "-c", f"import sys, data; sys.exit(repr({heavy}) if {heavy} else 0)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_stdlib_is_python_source_with_a_share_held_out(tmp_path):
    dataset = load("stdlib", quiet=True, dir=str(tmp_path))
    assert (dataset.vocabulary, dataset.tokenizer) == (256, "bytes")
    assert dataset.train_tokens > 5_000_000
    assert 0.02 < dataset.val_tokens / dataset.train_tokens < 0.1
    train, val = documents_of(dataset.train), documents_of(dataset.val)
    assert set(train).isdisjoint(set(val) - {""})
    assert Path(os.__file__).read_text() in train + val
    assert load("stdlib", quiet=True, dir=str(tmp_path / "again")).fingerprint == dataset.fingerprint


def test_stdlib_leaves_out_what_is_not_the_library():
    files = [path.as_posix() for path in source_files(Path(os.__file__).parent)]
    assert files == sorted(files)
    assert {"os.py", "asyncio/events.py", "json/decoder.py"} <= set(files)
    assert not [path for path in files if "test" in path.split("/") or "site-packages" in path]
    assert not [path for path in files if path.startswith(("encodings/", "idlelib/", "tkinter/", "_sysconfigdata"))]


def test_synthetic_tokens_are_the_same_everywhere_and_have_the_entropy_they_promise(tmp_path):
    def made(**keywords):
        dataset = load("synthetic", quiet=True, dir=str(tmp_path), **keywords)
        return dataset, Stream(dataset.train).read(0, dataset.train_tokens)

    dataset, pairs = made(tokens=60_001, val_tokens=5_000, vocabulary=97)
    assert (dataset.train_tokens, dataset.val_tokens, dataset.vocabulary) == (60_001, 5_000, 97)
    assert pairs[:4].tolist() == [87, 60, 6, 82]  # written down: other numbers are another corpus
    assert pairs.max() < 97
    assert len(np.unique(pairs[0:60_000].reshape(-1, 2), axis=0)) == 97
    _, uniform = made(tokens=60_000, val_tokens=5_000, vocabulary=97, structure="uniform")
    counts = np.bincount(uniform[0:60_000].reshape(-1, 2) @ [97, 1], minlength=97**2)
    share = counts[counts > 0] / counts.sum()
    assert -(share * np.log(share)).sum() > 0.95 * 2 * math.log(97)
    assert made(tokens=60_001, val_tokens=5_000, vocabulary=97, seed=1)[0].fingerprint != dataset.fingerprint


def test_synthetic_refuses_impossible_values():
    for keywords, sentence in [
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"vocabulary": 1}, "vocabulary must be between 2 and 4294967296"),
        ({"seed": -1}, "seed must be between"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            load("synthetic", **keywords)


def test_shards_of_nanogpt_and_of_llm_c(tmp_path):
    made = load("synthetic", quiet=True, dir=str(tmp_path), tokens=5000, val_tokens=500, vocabulary=300)
    headerless = tmp_path / "train.bin"
    Stream(made.train).read(0, 5000).tofile(headerless)

    def theirs(train, **keywords):
        result = {"vocabulary": 300, "dir": str(tmp_path / "records"), "tokenizer": "synthetic"} | keywords
        return load("shards", quiet=True, train=str(train), val=str(made.val[0].path), **result)

    same = theirs(made.folder / "train_*.bin")
    assert (same.train, same.fingerprint) == (made.train, made.fingerprint)
    plain = theirs(headerless)
    assert plain.train_tokens == 5000
    assert Stream(plain.train).read(0, 5000).tolist() == Stream(made.train).read(0, 5000).tolist()
    with pytest.raises(ValueError, match=r"train.bin holds the token id 299, beyond vocabulary=299"):
        theirs(headerless, vocabulary=299)
    with pytest.raises(ValueError, match="vocabulary must be between"):
        theirs(headerless, vocabulary=1)
    with pytest.raises(FileNotFoundError, match=r"data.train: there is no shard at /nowhere/\*"):
        theirs("/nowhere/*")
    with pytest.raises(ValueError, match="is also in train"):
        theirs(made.val[0].path)
    headerless.write_bytes(headerless.read_bytes()[:-2] + b"\0\0")
    with pytest.raises(ValueError, match=r"has changed since .* if the change is meant, delete .*dataset.json"):
        theirs(headerless)
    headerless.unlink()
    with pytest.raises(FileNotFoundError):
        theirs(headerless)
