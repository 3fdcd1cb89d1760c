# ruff: noqa: RUF001 (the characters that look like others are what this is about)
"""Writes what a terminal can show: near characters for those it lacks, escapes for those that would move it."""

import codecs
import re
import sys
import unicodedata
from contextlib import suppress

NEAREST = {"…": "...", "×": "x", "±": "+/-", "→": "->", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "·": "*", "−": "-",
           "’": "'", "‘": "'", "“": '"', "”": '"', "σ": "sigma", "µ": "u", "─": "-", "━": "-", "│": "|"}  # fmt: skip

CONTROL = {"Cc", "Zl", "Zp"}  # Unicode's categories of characters that move a terminal, or end a line


def one_line(text: str) -> str:
    """Return a text on one line: a space takes the place of its line ends and tabs, escapes that of control characters.

    Any character that `str.splitlines` splits at is either, so that a file's name or a key adds no line to a sentence.
    """
    line = re.sub(r"[ \t\r\n]*[\t\r\n][ \t\r\n]*", " ", text.strip(" \t\r\n"))
    return "".join(ascii(each)[1:-1] if unicodedata.category(each) in CONTROL else each for each in line)


def nearest_text(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that an encoding lacks: an error handler of codecs. A path's odd bytes stay what they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python writes a byte of a path that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return NEAREST.get(character) or plain or "?", error.start + 1


def print_what_it_can() -> None:
    """Let standard output and standard error take any text, whatever their encoding."""
    codecs.register_error("halfstep", nearest_text)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # a test's, or closed
            stream.reconfigure(errors="halfstep")  # type: ignore[union-attr]


print_what_it_can()  # whoever imports this is about to print
