"""The one reader and the one writer of our YAML: plain values as YAML 1.2 has them, and a name for every key.

`1e-3` is a number, `on` and `2024-01-15` are text, and the keys `5:` and `on:` are the names "5" and "on". Two things
are kept of YAML 1.1, for Hydra reads them in the same files: `100_000` is a number, and `<<` merges.
"""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import Reader

from conventions.form import LARGEST

TAG = "tag:yaml.org,2002:"
DIGITS = r"[0-9]+(?:_[0-9]+)*"
PLAIN = {  # what plain text is read as, and the characters that it may begin with
    "null": (re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(rf"(?:[-+]?{DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    "float": (
        re.compile(
            rf"(?:[-+]?(?:\.{DIGITS}|{DIGITS}(?:\.(?:{DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
    "merge": (re.compile(r"<<$"), ["<"]),
}
SHALLOW = 10_000  # characters, in which no brackets can nest so deeply that libyaml, which recurses in C, crashes
DEEPEST = 100  # levels of keys and lists
Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a thousand configs in a second, not in ten


def read_yaml(path: Path, remedy: str = "mend it") -> dict[str, Any]:
    """Return the keys of a file; none where it is empty.

    Args:
        remedy: what a person is to do if the file is broken, for the end of the sentence.

    Raises:
        ValueError: the file is broken, in a sentence with its name, the line and the remedy.
        OSError: it is not there, or cannot be opened.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = 1 + raw.count(b"\n", 0, error.start), raw[error.start]
        raise ValueError(f"{path}, line {line}, is broken (the byte {byte:#x} is not UTF-8): {remedy}") from None
    values = parse_yaml(text, str(path), remedy)
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{path} is broken (it holds no keys): {remedy}")
    return values or {}


def parse_yaml(text: str, place: str, remedy: str = "mend it") -> Any:
    """Return what a text holds; None where it is empty.

    Args:
        place: the file or option that holds the text, for the sentence.
        remedy: as for `read_yaml`.

    Raises:
        ValueError: the text is broken, in a sentence with the place, the line and the remedy.
    """
    if odd := Reader.NON_PRINTABLE.search(text):
        line, why = 1 + text.count("\n", 0, odd.start()), f"YAML may not hold the character U+{ord(odd[0]):04X}"
        raise ValueError(f"{place}, line {line}, is broken ({why}): {remedy}")
    try:
        if len(text) > SHALLOW and _too_deep(text):
            raise RecursionError
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark, lines = error.problem_mark or error.context_mark, text.splitlines() or [""]
        line = min(mark.line if mark else 0, len(lines) - 1)  # of what ends too early, the last one
        raise ValueError(f"{place}, line {line + 1}, is broken ({_why(error, lines[line])}): {remedy}") from None
    except RecursionError:
        raise ValueError(f"{place} is broken (its keys or lists nest too deeply): {remedy}") from None


def yaml_text(values: Any) -> str:
    """Return values as YAML in ASCII that `read_yaml` reads back under every locale, names that are no UTF-8 too."""
    return yaml.dump(values, Dumper=_PathDumper, sort_keys=False, width=120)


def hydra_yaml_text(values: Any) -> str:
    """Return values as YAML that Hydra reads back: of a name that is no UTF-8, it takes the escapes of its bytes."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=120)


def _too_deep(text: str) -> bool:
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # the rest would take time that grows as the square of the depth
            return True
    return False


def _why(error: yaml.MarkedYAMLError, line: str) -> str:
    if re.match(r" *\t", line):
        return "a tab indents it, where YAML takes spaces"
    problem = " ".join(str(error.problem or error.context).split())
    return f"{problem}: text with a colon goes in quotes" if problem.startswith("mapping values") else problem


class _Loader(Base):
    """Reads what YAML 1.2's core schema knows, and `!!binary`."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that a reader of YAML 1.1 or of 1.2 would take for something else."""


class _PathDumper(_Dumper):
    """Writes text with bytes that are no UTF-8, as Python has it in paths, as `!!binary`."""


def _scalar(tag: str, convert: Callable[[str], Any]) -> Callable[[Any, Node], Any]:
    """Return the constructor of a tag, which a file may also write before text that is no such value."""

    def construct(loader: Any, node: Node) -> Any:
        text = loader.construct_scalar(node)
        try:
            if PLAIN[tag][0].match(text):
                return convert(text.replace("_", ""))
            why = f"{text!r} is no {tag}"
        except ValueError:  # larger than any float, or of more than the 4,300 digits that Python reads
            why = "a number has too many digits"
        raise ConstructorError(problem=why, problem_mark=node.start_mark)

    return construct


def _whole(text: str) -> int:
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if abs(value) > LARGEST:
        raise ValueError
    return value


def _number(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _text_of_bytes(loader: Any, node: Node) -> str:
    return loader.construct_yaml_binary(node).decode("utf-8", "surrogateescape")


def _keys(loader: Any, node: Any) -> dict[str, Any]:
    if not isinstance(node, MappingNode):
        raise ConstructorError(problem="a value stands where keys are wanted", problem_mark=node.start_mark)
    first: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise ConstructorError(problem="a key must be a name", problem_mark=key.start_mark)
        if key.value in first:
            why = f"the key {key.value} is there already, in line {first[key.value]}"
            raise ConstructorError(problem=why, problem_mark=key.start_mark)
        first[key.value] = key.start_mark.line + 1
    loader.flatten_mapping(node)
    return {
        _text_of_bytes(loader, key) if key.tag == f"{TAG}binary" else key.value: loader.construct_object(each, True)
        for key, each in node.value
    }


def _items(loader: Any, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _of_text(dumper: yaml.SafeDumper, text: str) -> Node:
    try:
        raw = text.encode("utf-8", "surrogateescape")
        return dumper.represent_str(raw.decode())
    except UnicodeDecodeError:
        return dumper.represent_scalar(f"{TAG}binary", base64.b64encode(raw).decode())
    except UnicodeEncodeError:  # half a character, which no path has
        return dumper.represent_str(text.encode("utf-8", "replace").decode())


for tag, (pattern, first) in PLAIN.items():
    _Loader.add_implicit_resolver(TAG + tag, pattern, first)
    _Dumper.add_implicit_resolver(TAG + tag, pattern, first)
for tag, convert in {
    "null": lambda _: None,
    "bool": lambda text: text[0] in "tT",
    "int": _whole,
    "float": _number,
}.items():
    _Loader.add_constructor(TAG + tag, _scalar(tag, convert))
for tag, construct in {"str": Base.construct_scalar, "binary": _text_of_bytes, "seq": _items, "map": _keys}.items():
    _Loader.add_constructor(TAG + tag, construct)
_Loader.add_constructor(None, yaml.SafeLoader.construct_undefined)
_PathDumper.add_representer(str, _of_text)
