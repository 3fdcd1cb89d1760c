"""A callable's signature is the schema of its section of the config."""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Union

from conventions.form import is_a, short
from conventions.sentence import bare, nearest

# Keys that choose the callable of a section, and are not for it.
CHOOSERS = {"model": ("name", "family"), "data": ("name",), "optimizer": ("name", "_target_"), "tracker": ("name",)}
BEYOND = 2**63  # no integer of torch and NumPy is as large
REQUIRED = inspect.Parameter.empty


def bind(
    target: Callable[..., Any],
    values: Mapping[str, Any],
    section: str,
    aside: Sequence[str] = (),
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the keywords for `target`, checked by name and by type; ranges are the target's own to check.

    Args:
        target: a class or function whose annotated keywords are the schema.
        values: the section of the config.
        section: its dotted name, for the sentences ("" at the top level).
        aside: parameters of the target that do not come from the config.
        others: keys of the section that are not for the target, to be named beside its own.

    Raises:
        ValueError: an unknown or missing key, or a value of another type, in one sentence.
    """
    parameters = _parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        key: p
        for key, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and key not in aside
    }
    bound = {}
    for key, value in values.items():
        if key in CHOOSERS.get(section, ()) and key not in named:
            continue
        path = f"{section}.{key}" if section else key
        # What takes any keyword takes a misspelt one too, and drops it.
        misspelt = open_ended and difflib.get_close_matches(key, [*named, *others], n=1, cutoff=0.85)
        if key in aside or (key not in named and (misspelt or not open_ended)):
            raise ValueError(f"{path} is no key of {section or 'the config'}: {nearest(key, [*named, *others])}")
        annotation = named[key].annotation if key in named else Any
        bound[key] = _convert(value, annotation, path)
    for key, parameter in named.items():
        if key not in bound and parameter.default is REQUIRED:
            path = f"{section}.{key}" if section else key
            raise ValueError(f"{path} is missing: give {path}=<{_describe(parameter.annotation)}>")
    return bound


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(target).parameters)
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # an external class's annotations may name what only a type checker imports
        hints = dict.fromkeys(parameters, Any)
    return {key: p.replace(annotation=hints.get(key, Any)) for key, p in parameters.items()}


def _convert(value: Any, annotation: Any, path: str) -> Any:
    """Return `value` as `annotation` wants it: lists become tuples, whole numbers floats, mappings dataclasses."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if not isinstance(value, Mapping):
            keys = ", ".join(field.name for field in dataclasses.fields(annotation))
            raise ValueError(f"{path} holds keys ({keys}), not the value {short(value)}")
        return construct(annotation, value, path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        plain = [a for a in arguments if _fits(value, a) is not False]
        if not plain:
            raise _mismatch(value, annotation, path)
        plain.sort(key=lambda a: a is int and isinstance(value, float))  # 1.0 is a number first where both may be given
        return _convert(value, plain[0], path)
    if origin is tuple and isinstance(value, (list, tuple)) and Ellipsis not in arguments:
        if len(value) != len(arguments):
            raise ValueError(f"{path} takes {len(arguments)} values, not {len(value)}: {list(value)}")
        return tuple(_convert(v, a, f"{path}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))
    if _fits(value, annotation) is False:
        raise _mismatch(value, annotation, path)
    if annotation in (float, int):
        return annotation(value)
    if origin is list or origin is tuple:
        return origin(_convert(v, arguments[0], f"{path}[{i}]") for i, v in enumerate(value))
    return value


def _fits(value: Any, annotation: Any) -> bool | None:
    """Return whether a value is of a plain type; None where the annotation is not plain, so that any value passes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin in (Union, types.UnionType):
        verdicts = [_fits(value, a) for a in arguments]
        return True if True in verdicts else None if None in verdicts else False
    if origin in (list, tuple):
        counted = origin is tuple and Ellipsis not in arguments
        return isinstance(value, (list, tuple)) and (not counted or len(value) == len(arguments))
    if annotation in (dict, Mapping) or origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if Callable in (annotation, origin):
        return callable(value)
    if annotation is float:
        return is_a(value, float)
    if annotation is int:
        whole = is_a(value, int) or (isinstance(value, float) and value.is_integer())  # 1e5 and 10.0, too
        return whole and abs(value) < BEYOND
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is Any or annotation is REQUIRED or isinstance(annotation, typing.TypeVar):
        return None
    if dataclasses.is_dataclass(annotation):
        return isinstance(value, Mapping)
    if inspect.isclass(annotation):  # a tensor, say: nothing that a config can hold
        return isinstance(value, annotation)
    return None


def _mismatch(value: Any, annotation: Any, path: str) -> ValueError:
    """Make the sentence on a value of the wrong type, with the nearest word where words may be given."""
    text = f"{path} must be {_describe(annotation)}, not {short(value)}"
    if type(value) in (int, float) and abs(value) >= BEYOND:
        return ValueError(f"{text}, which is too large")
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in (Union, types.UnionType) else [annotation]
    words = [str(w) for a in choices if typing.get_origin(a) is Literal for w in typing.get_args(a)]
    if isinstance(value, str) and (near := nearest(value, words)).startswith("did"):
        return ValueError(f"{text}: {near}")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ValueError(f"{text}: put it in quotes" if number and str in choices else text)


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    names: dict[Any, str] = {
        int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"
    }  # fmt: skip
    if annotation in names:
        return names[annotation]
    if origin is Literal:
        return " or ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(_describe(a) for a in arguments if a in names or typing.get_origin(a))
        return " or ".join(k for k in kinds if not (k == names[int] and names[float] in kinds)) or "a value"
    if origin is Callable or annotation is Callable:
        return "a function, which no config can hold: leave it out"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} values"
    if origin in (list, tuple):
        return f"a list, each {_describe(arguments[0])}"
    if annotation is dict or origin is dict:
        return "a group of keys"
    return "a value"


@contextmanager
def in_section(section: str, keywords: Iterable[str]) -> Iterator[None]:
    """Put the section's name in front of a complaint about one of its keywords, or about the whole of it.

    The constructor of an external class may raise any exception: all become a ValueError, but for those of the
    disk, the network and missing packages.
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        text = bare(error)
        about_key = text.split(" ", 1)[0].rstrip(":").split("[")[0].split(".")[0] in keywords
        if not section or text.startswith(f"{section}."):
            raise
        raise ValueError(f"{section}.{text}" if about_key else f"{section}: {text}") from error


def construct(target: Callable[..., Any], values: Mapping[str, Any], section: str, *leading: Any) -> Any:
    """Call `target` with its section of the config, after the arguments that do not come from the config."""
    positional = list(inspect.signature(target).parameters)[: len(leading)]
    keywords = bind(target, values, section, positional)
    with in_section(section, keywords):
        return target(*leading, **keywords)
