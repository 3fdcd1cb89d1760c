"""The one reader of JSON: one kind of error for whatever is wrong, and no number that Python cannot reckon with."""

import json
from typing import Any

from conventions.form import LARGEST

DIGITS = len(str(LARGEST))
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}  # Python writes them so


def parse_json(text: str | bytes, finite: bool = False) -> Any:
    """Return what a text in JSON holds.

    Args:
        finite: whether NaN and the infinities, which Python writes though JSON has none, are read as null.

    Raises:
        json.JSONDecodeError, which is a ValueError: the text is no JSON.
        ValueError: a whole number is larger than any float, or lists and keys nest too deeply.
    """
    try:
        return json.loads(text, parse_int=_whole, parse_constant=(lambda _: None) if finite else NOT_FINITE.get)
    except RecursionError:
        raise ValueError("its keys or lists nest too deeply") from None


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS or abs(value := int(digits)) > LARGEST:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return value
