"""Trials of tests/fuzz.py, the same ones each time; and what longer ones have found, each as its smallest input."""

import contextlib
import json
import re
import sqlite3

import pytest
import yaml

from conventions.config_keys import CONFIGS
from conventions.form import CONFIG, MANIFEST, misfit
from conventions.json_text import parse_json
from conventions.keywords import bind
from conventions.sentence import Arguments, sentence
from harness.command_line import composed
from harness.config import parse
from harness.sweep.watch import RunReader
from harness.words import flags_first
from judge.answer import facts
from judge.claims.claim_file import read_claim
from judge.comparison import compare
from judge.readers import read
from judge.records import find_runs
from tests.foreign import TEXTS, foreign, write_mlflow_database, write_mlruns, write_text
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


def test_a_row_or_a_length_that_is_none_is_no_progress(tmp_path):
    folder = write_run(tmp_path)
    assert RunReader(folder).read()
    config = (folder / "config.yaml").read_text()
    for steps in (".inf", ".nan", "many", "[]", "true"):
        (folder / "config.yaml").write_text(config.replace("steps: 1000", f"steps: {steps}"))
        assert RunReader(folder).read() is None
    (folder / "config.yaml").write_text(config)
    for line in ("1", '{"step": "a"}', '{"step": 1, "val/loss": []}'):
        (folder / "metrics.jsonl").write_text(f"{line}\n")
        assert RunReader(folder).read() is None


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_run_whose_model_or_data_has_no_name_is_reported(tmp_path, section):
    path = write_run(tmp_path) / "config.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, section: {**values[section], "name": None}}))
    assert ("an unknown model" if section == "model" else "unknown data") in facts(
        compare(find_runs(tmp_path), "adamw")
    )


def test_a_warm_up_of_another_type_is_no_fixed_number(tmp_path):
    for seed in (0, 1):
        path = write_run(tmp_path, seed=seed) / "config.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "schedule": {"warmup": [10]}}))
    (arm,) = compare(find_runs(tmp_path), "adamw").arms
    assert arm.warmup == 0


@pytest.mark.parametrize("odd", ["\x1e", "\x1b[2J", "\x85", "\u2028", "\0", "\x0c"])
def test_a_control_character_is_shown_as_its_escape(odd, capsys):
    """Such a character in a key, a value or a file's name began another line, or moved the terminal."""
    errors = [ValueError(f"a{odd}b is no key"), FileNotFoundError(2, "No such file", f"a{odd}b"), KeyError(f"a{odd}b")]
    shown = ascii(odd)[1:-1]
    for error in errors:
        assert shown in sentence(error).replace("\\\\", "\\")
        assert sentence(error).isprintable()
    for refuse in (lambda: flags_first([f"-{odd}=null"]), lambda: Arguments().parse_args([f"-{odd}"])):
        with pytest.raises(SystemExit):
            refuse()
        printed = capsys.readouterr().err
        assert shown in printed
        assert printed.removesuffix("\n").isprintable()


def test_a_sentence_keeps_the_spaces_and_the_letters_of_a_path():
    assert sentence(ValueError("Ô  日\u200d\udce9.yaml\nis\r\n\tbroken\n")) == "Ô  日\u200d\udce9.yaml is broken"


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**63, 1e300, float("inf"), float("nan"), True])
def test_a_whole_number_is_one_that_torch_takes(value):
    def takes(steps: int) -> None: ...

    with pytest.raises(ValueError, match=r"^steps must be an integer, not .{1,70}$"):
        bind(takes, {"steps": value}, "")


@pytest.mark.parametrize("file", ["manifest.json", "config.yaml"])
def test_a_run_with_a_number_of_so_many_digits_is_refused(tmp_path, file):
    path = write_run(tmp_path) / file
    path.write_text(path.read_text().replace("1024", "1" + "0" * 400))
    with pytest.raises(ValueError, match=rf"{file}.* is broken \(.* digits\): restore it"):
        find_runs(tmp_path)


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("key", ["at_most", "tolerance", "says"])
def test_a_claim_with_a_number_of_so_many_digits_is_refused(tmp_path, key, digits):
    values = yaml.safe_load((CONFIGS / "claim" / "adahessian_lm.yaml").read_text())
    values["statements"][0][key] = "DIGITS"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values).replace("DIGITS", "9" * digits))
    with pytest.raises(ValueError, match=r"mine\.yaml, line \d+, is broken \(a number has too many digits\): mend it"):
        read_claim(tmp_path / "mine.yaml")


@pytest.mark.parametrize("finite", [False, True])
def test_json_has_one_kind_of_error(finite):
    for text in ("", "{", "9" * 400, "-" + "9" * 5000, '{"a": [' + "[" * 10**5, "nul"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 any sentence
            parse_json(text, finite)
        assert len(str(caught.value)) < 100
    assert parse_json(f"[1, -2, {2**999}]", finite) == [1, -2, 2**999]
    assert str(parse_json("[NaN, -Infinity]", finite)) == ("[None, None]" if finite else "[nan, -inf]")


@pytest.mark.parametrize("override", ["+@=$HOME", "+@a=b", "+experiment=[demo,[a]]"])
def test_what_hydra_itself_fails_on_is_refused(override):
    with pytest.raises(ValueError, match=r"^Hydra cannot read the command line \(.+\): keys are given as key=value"):
        composed([override])


@pytest.mark.parametrize("key", ["model.name", "data.name", "optimizer.name", "tracker.name"])
def test_a_name_in_the_config_is_no_path(key):
    """Such a name took the run's folder out of results/runs."""
    values = composed(["optimizer=external", "optimizer._target_=torch.optim.SGD"])
    section, _, name = key.partition(".")
    for path in ("../..", "/tmp", "a/b", "..", ""):
        with pytest.raises(ValueError, match=rf"^{key} must be a plain name, not '{path}': give {section}=<option>"):
            parse({**values, section: {**values[section], name: path}})


@pytest.mark.parametrize("name", ["modded-nanogpt", "LitGPT", "llm.c", "torchtitan"])
def test_a_count_of_so_many_digits_in_a_log_is_refused_or_unknown(tmp_path, name):
    """A step, a length or a micro-batch beyond any float ended in OverflowError."""
    text = TEXTS[name]
    for number in re.finditer(r"\b\d+\b", text):
        path = write_text(tmp_path / "a.log", text[: number.start()] + "9" * 400 + text[number.end() :])
        with contextlib.suppress(ValueError):
            foreign(path)


def test_a_count_of_so_many_digits_in_mlflow_is_refused(tmp_path):
    file = write_mlruns(tmp_path / "mlruns") / "0" / "3ac05420" / "metrics" / "val" / "loss"
    for place in range(3):
        words = ["1", "2", "3"]
        words[place] = "x" if place == 1 else "9" * 400  # a loss may be infinite
        file.write_text(" ".join(words) + "\n")
        with pytest.raises(ValueError, match="loss, line 1, is not `milliseconds value step`"):
            read(str(tmp_path / "mlruns"))
    for column in ("step", "timestamp", "value", "key"):
        path = write_mlflow_database(tmp_path / f"{column}.db")
        with contextlib.closing(sqlite3.connect(path)) as base, base:
            base.execute(f"update metrics set {column} = x'00'")
        with pytest.raises(ValueError, match=rf"{column}\.db holds a metric whose time, step, name and value are not"):
            read(str(path))


@pytest.mark.parametrize("name", ["a.jsonl", "trainer_state.json"])
def test_a_foreign_number_of_so_many_digits_is_refused(tmp_path, name):
    row = f'{{"step": 1, "eval_loss": 1{"0" * 400}}}'
    (tmp_path / name).write_text(row if name == "a.jsonl" else f'{{"log_history": [{row}]}}')
    with pytest.raises(ValueError, match=rf"{name}.* a number of 401 digits"):
        read(str(tmp_path / name))
