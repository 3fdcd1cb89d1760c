# ruff: noqa: RUF001 (the characters that look like others are what this is about)
"""The nearest characters to those that a terminal lacks, so that no program fails for a character."""

import codecs
import sys
import unicodedata
from contextlib import suppress

NEAREST = {"…": "...", "×": "x", "±": "+/-", "→": "->", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "·": "*", "−": "-",
           "’": "'", "‘": "'", "“": '"', "”": '"', "σ": "sigma", "µ": "u", "─": "-", "━": "-", "│": "|"}  # fmt: skip


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
