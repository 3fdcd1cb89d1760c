"""Turns what people write into paths, and paths into what our files keep."""

import argparse
import os
import pwd
import re
from pathlib import Path

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def expanded(text: str, key: str, variable: str = "") -> Path:
    """Return the path that `text` stands for: `~`, `~user`, `$NAME` and `${NAME}` are replaced, as by a shell.

    What names no user after a `~` stays as it is, and so does a `$NAME` in the name of something that exists.

    Args:
        key: the key or option that `text` is the value of, for the sentences.
        variable: an environment variable that can be set instead of the key.

    Raises:
        ValueError: a variable that is not set (or empty), or a home folder that is not known.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if os.environ.get(name):
            return os.environ[name]
        if os.path.lexists(text):
            return match[0]
        raise ValueError(f"{key}={text}: the environment variable {name} is not set; set it, or write the path in full")

    whole = VARIABLE.sub(value, text)
    if not whole.startswith("~"):
        return Path(whole)
    user, slash, rest = whole[1:].partition("/")
    try:
        home = (not user and os.environ.get("HOME")) or (pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid()))[5]
    except (KeyError, ValueError):
        if user:
            return Path(whole)
        instead = f", or set {variable}" if variable else ""
        raise ValueError(
            f"{key}={text}: this user has no home folder (HOME is not set); give {key}= a path without ~{instead}"
        ) from None
    return Path(home + slash + rest)


def path_argument(text: str) -> Path:
    """Read a path of a program's own command line: the `type` of an argument of argparse."""
    try:
        return expanded(text, "path")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path=")) from None


def as_text(path: Path) -> str:
    """Read the bytes of a path as UTF-8, with lone surrogates for those that are none: one text under every locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def from_text(text: str) -> Path:
    """Return the path that `as_text` wrote down."""
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def forget_empty(*names: str) -> None:
    """Unset the environment variables that are empty: some libraries take an empty cache folder for the current one."""
    for name in names:
        if os.environ.get(name) == "":
            del os.environ[name]
