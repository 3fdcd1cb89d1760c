"""Trials of tests/fuzz.py, the same ones each time; and what longer ones have found, each as its smallest input."""

import json

import pytest
import yaml

from conventions.form import CONFIG, MANIFEST, misfit
from harness.sweep.watch import RunReader
from judge.records import find_runs
from tests.fuzz import TARGETS, trials
from tests.study import write_run


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_trials(target):
    trials(TARGETS[target], 20)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_more_trials(target):
    trials(TARGETS[target], 400)


@pytest.mark.parametrize(
    ("file", "key", "value", "why"),
    [
        ("manifest.json", "ranks", [], "ranks must be a whole number, not []"),
        ("manifest.json", "ranks", True, "ranks must be a whole number, not True"),
        ("manifest.json", "device", "H100", "device must hold keys, not 'H100'"),
        (
            "manifest.json",
            "tokens_per_step",
            10**400,
            "tokens_per_step must be a whole number, not one of so many digits",
        ),
        ("manifest.json", "resumes", [{"step": "5"}], "resumes[0].step must be a whole number, not '5'"),
        ("manifest.json", "git", {"dirty": "no"}, "git.dirty must be true or false, not 'no'"),
        ("manifest.json", "flops_per_token", float("nan"), "flops_per_token must be a number, not nan"),
        ("manifest.json", "origin", {"unknown": "seed"}, "origin.unknown must be a list, not 'seed'"),
        ("config.yaml", "steps", "many", "steps must be a whole number, not 'many'"),
        ("config.yaml", "steps", 0, "steps must be at least 1, not 0"),
        ("config.yaml", "model", "gpt2", "model must hold keys, not 'gpt2'"),
        ("config.yaml", "batch", {"tokens": "x" * 99}, f"batch.tokens must be a whole number, not '{59 * 'x'}..."),
        ("config.yaml", "optimizer", [], "optimizer must hold keys, not []"),
    ],
)
def test_a_value_of_another_type_names_file_and_key(tmp_path, file, key, value, why):
    """Some of these ended in a traceback, and others in a wrong table."""
    path = write_run(tmp_path) / file
    load, dump = (json.loads, json.dumps) if file == "manifest.json" else (yaml.safe_load, yaml.safe_dump)
    path.write_text(dump({**load(path.read_text()), key: value}))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared below
        find_runs(tmp_path)
    assert str(caught.value) == f"{path}: {why}: restore it, or move the folder away"


def test_what_is_missing_or_null_fits_every_form():
    assert misfit({}, MANIFEST) is misfit({"device": None, "resumes": [None]}, MANIFEST) is misfit({}, CONFIG) is None


def test_a_row_that_is_none_is_no_progress(tmp_path):
    folder = write_run(tmp_path)
    for line in ("1", '{"step": "a"}', '{"step": 1, "val/loss": []}'):
        (folder / "metrics.jsonl").write_text(f"{line}\n")
        assert RunReader(folder).read() is None
