"""NAME=VALUE on a command line, where an option may be given again."""

from collections.abc import Sequence


def pairs(given: Sequence[str], option: str, form: str) -> list[tuple[str, str]]:
    """(name, value) of each. Raises ValueError, showing the form, for one that is none."""
    parted = [text.partition("=") for text in given]
    if wrong := next((a + b for a, b, c in parted if not a or not c), None):
        raise ValueError(f"{option} {wrong}: give it as {option} {form}")
    return [(a, c) for a, _, c in parted]
