"""Keys that came after a run: they name no other run as long as they say what was done before, and hide no new one."""

import inspect
import json

import pytest
import yaml

import optimizers
from conventions.config_keys import CONFIGS
from conventions.older_keys import completed
from conventions.yaml_file import read_yaml
from harness.command_line import composed
from harness.config import config_hash
from harness.run_folder import RunFolder
from judge.records import find_runs, read_run
from tests.study import write_run

TABLE = read_yaml(CONFIGS / "older_keys.yaml")
OTHERS = ("run", "model")
OLDER = [(name, key, value) for name, keys in TABLE.items() if name not in OTHERS for key, value in keys.items()]
EVERYONES = TABLE["optimizer"]  # which a config need not have
OLDER = [("adamw" if name == "optimizer" else name, key, value) for name, key, value in OLDER]


@pytest.mark.parametrize(("name", "key", "value"), OLDER)
def test_a_key_names_a_run_only_where_it_says_something_new(name, key, value):
    info = optimizers.find(name)
    assert any(key in inspect.signature(each).parameters for each in (info.constructor, info.build))
    values = composed([f"optimizer={name}"])
    without = {**values, "optimizer": {k: v for k, v in values["optimizer"].items() if k != key}}
    before = {**values, "optimizer": {**values["optimizer"], key: value}}
    after = {**values, "optimizer": {**values["optimizer"], key: "another"}}
    assert config_hash(before) == config_hash(without) != config_hash(after)
    assert key in EVERYONES or completed(without)["optimizer"][key] == value
    assert completed(after)["optimizer"][key] == "another"


@pytest.mark.parametrize(("key", "value"), TABLE["run"].items())
def test_a_key_of_the_run_names_it_only_where_it_says_something_new(key, value):
    values = composed([])
    without = {k: v for k, v in values.items() if k != key}
    assert len(without) < len(values)
    assert config_hash({**values, key: value}) == config_hash(without) != config_hash({**values, key: "another"})
    assert completed(without)[key] == value
    assert completed({**values, key: "another"})[key] == "another"


@pytest.mark.parametrize(("key", "value"), TABLE["model"].items())
@pytest.mark.parametrize("model", ["gpt2_nano", "llama_nano", "bert_nano"])
def test_a_key_of_the_model_names_a_run_only_where_it_says_something_new(model, key, value):
    values = composed([f"model={model}"])

    def having(**changes):
        return {**values, "model": {**{k: v for k, v in values["model"].items() if k != key}, **changes}}

    assert values["model"][key] == value
    assert config_hash(values) == config_hash(having()) != config_hash(having(**{key: "another"}))
    assert completed(having())["model"] == values["model"]
    assert completed(having(**{key: "another"}))["model"][key] == "another"


def test_an_older_run_reads_as_what_it_did_and_a_foreign_one_as_what_it_says(tmp_path):
    ours = read_run(write_run(tmp_path, "mkor"))
    assert ours.config["optimizer"]["split_qkv"] is False
    theirs = read_run(write_run(tmp_path, "mkor", seed=1, manifest={"origin": {"format": "csv"}}))
    assert "split_qkv" not in theirs.config["optimizer"]
    assert [run.config["optimizer"].get("split_qkv") for run in find_runs(tmp_path)] == [False, None]


def test_an_older_run_goes_on_as_what_it_is(tmp_path):
    """Its manifest has a hash of before, and its config does not have the key."""
    run = write_run(tmp_path, "shampoo")
    old = composed(["optimizer=shampoo"])
    del old["optimizer"]["split_qkv"]
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    facts = {**json.loads((run / "manifest.json").read_text()), "config_hash": "of another version"}
    (run / "manifest.json").write_text(json.dumps(facts))
    values = {**old, "optimizer": {**old["optimizer"], "split_qkv": False}}
    folder = RunFolder(run, values, config_hash(values), writes=True)
    assert folder.check(resume=True) is not None
    assert folder.digest == "of another version"  # which its checkpoints have too
    values["optimizer"]["split_qkv"] = True
    with pytest.raises(ValueError, match=r"another config \(it differs in optimizer.split_qkv\)"):
        RunFolder(run, values, config_hash(values), writes=True).check(resume=True)
