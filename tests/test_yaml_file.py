"""The reader and the writer of our YAML: what plain text means, and a sentence with file and line for each fault."""

import math

import pytest
from omegaconf import OmegaConf

from conventions import yaml_file
from conventions.config_keys import CONFIGS
from conventions.yaml_file import hydra_yaml_text, parse_yaml, read_yaml, yaml_text

PLAIN = {
    "1e-3": 1e-3, "1E5": 1e5, "1.": 1.0, ".5": 0.5, "-.5e+2": -50.0, "2.5e-1": 0.25, ".inf": math.inf,
    "-.inf": -math.inf, "3": 3, "-3": -3, "+3": 3, "010": 10, "100_000": 100_000, "0x1F": 31, "0o17": 15,
    "true": True, "False": False, "null": None, "~": None, "": None,
    "on": "on", "off": "off", "yes": "yes", "No": "No", "y": "y", "2024-01-15": "2024-01-15", "1:30": "1:30",
    "1_": "1_", "e5": "e5", "=": "=", "nan": "nan", "'5'": "5", '"1e3"': "1e3",
}  # fmt: skip
BROKEN = {
    "a: 1\n\tb: 2": "2, is broken (a tab indents it, where YAML takes spaces): mend it",
    "a:\n\t- 1": "2, is broken (a tab indents it, where YAML takes spaces): mend it",
    "a: 1\r\nb: 2\r\na: 3\r\n": "3, is broken (the key a is there already, in line 1): mend it",
    "a:\n  b: 1\n  b: 1": "3, is broken (the key b is there already, in line 2)",
    "5: 1\n'5': 2": "2, is broken (the key 5 is there already, in line 1)",
    "a: b: c": "1, is broken (mapping values are not allowed in this context: text with a colon goes in quotes)",
    "a: [1,\n": "1, is broken (did not find expected node content)",
    "[a]: 1": "1, is broken (a key must be a name)",
    "a: !!python/object:os.system x": "1, is broken (could not determine a constructor for the tag",
    "a: 1\nb: !!int x": "2, is broken ('x' is no int)",
    "a: !!bool yes": "1, is broken ('yes' is no bool)",
    "a: !!map 3": "1, is broken (a value stands where keys are wanted)",
    "a: 1\nb: \x01": "2, is broken (YAML may not hold the character U+0001)",
    "a: 1\n---\nb: 2": "2, is broken (but found another document)",
    "a: &x\n  - *x": "1, is broken (found unconstructable recursive node)",
    f"a: {'9' * 5000}": "1, is broken (a number has too many digits)",
}


@pytest.mark.parametrize(("text", "value"), PLAIN.items())
def test_plain_text_means_what_yaml_1_2_says(text, value):
    read = parse_yaml(f"key: {text}", "text")["key"]
    assert (type(read), read) == (type(value), value)


def test_a_key_is_its_text():
    text = "5: a\non: b\nnull: c\n1e-3: d\n'x y': e\n? true\n: f\n"
    assert parse_yaml(text, "text") == {"5": "a", "on": "b", "null": "c", "1e-3": "d", "x y": "e", "true": "f"}


def test_what_is_named_once_may_be_merged():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a]"
    assert parse_yaml(text, "text") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}]}


@pytest.mark.parametrize(("text", "expected"), BROKEN.items())
def test_what_is_broken_is_named_by_file_and_line(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared below
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}, line {expected}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 1_000_000 + "]" * 1_000_000, "- " * 20_000 + "a", "[" * 4000 + "]" * 4000])
def test_what_nests_without_end_is_refused(text):
    """Where libyaml is there, it would run out of the stack of C, and the process would end without a word."""
    with pytest.raises(ValueError, match=r"x is broken \(its keys or lists nest too deeply\): mend it"):
        parse_yaml(text, "x")


@pytest.mark.parametrize(("raw", "expected"), {
    b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: \xc3\xa9\r\n": {"a": 1, "b": {"c": "é"}},
    b"": {}, b"# nothing\n": {}, b"\xef\xbb\xbf": {},
    b"a: 1\nb: \xff\n": "line 2, is broken (the byte 0xff is not UTF-8): restore it",
    b"\xff\xfea\x00:\x00": "line 1, is broken (the byte 0xff is not UTF-8): restore it",
    b"- 1\n": "is broken (it holds no keys): restore it", b"text": "is broken (it holds no keys): restore it",
}.items())  # fmt: skip
def test_a_file_is_read_by_its_bytes(tmp_path, raw, expected):
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    if isinstance(expected, dict):
        assert read_yaml(path) == expected
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared below
        read_yaml(path, "restore it")
    assert str(caught.value) in (f"{path}, {expected}", f"{path} {expected}")


@pytest.mark.parametrize(
    "text", [*PLAIN, "08", "1e400", "<<", "a: b", "- a", "é", "x\ny", "\t", "null ", "0b1", "\ufeff"]
)
def test_text_that_looks_like_a_value_comes_back_as_text(text):
    values = {"key": text, text: [text]}
    for written in (yaml_text(values), hydra_yaml_text(values)):
        assert written.isascii()
        assert parse_yaml(written, "text") == values
    assert OmegaConf.to_container(OmegaConf.create(hydra_yaml_text(values))) == values


def test_a_path_that_is_no_utf8_comes_back():
    values = {"\udcff": "a\udcffé"}
    assert parse_yaml(yaml_text(values), "text") == values
    assert OmegaConf.to_container(OmegaConf.create(hydra_yaml_text(values))) == values


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_hydra_and_we_read_the_same_files_alike(path):
    assert read_yaml(path) == OmegaConf.to_container(OmegaConf.load(path))


def test_without_libyaml_all_is_the_same(monkeypatch):
    """The class that PyYAML has in Python gives the same values and the same lines."""
    import importlib

    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    slow = importlib.reload(yaml_file)
    try:
        assert slow.Base is yaml.SafeLoader
        assert slow.parse_yaml("5: 1e-3\nb: [on]", "x") == {"5": 1e-3, "b": ["on"]}
        for text, expected in BROKEN.items():
            line = expected.partition(",")[0]
            with pytest.raises(ValueError, match=rf"^x, line {line}, is broken"):
                slow.parse_yaml(text, "x")
    finally:
        monkeypatch.undo()
        importlib.reload(yaml_file)
