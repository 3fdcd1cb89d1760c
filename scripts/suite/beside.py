"""Halfstep as it is, and beside nanoGPT, in one way for every page: out of throughput.json."""

from collections.abc import Mapping
from typing import Any

PLAIN = "plain"


def ours(book: Mapping[str, Any], model: str) -> dict[str, Any] | None:
    """The row of halfstep as it is."""
    mine = (r for r in book["rows"] if (r["model"], r["system"], r["variant"]) == (model, "halfstep", PLAIN))
    return next(mine, None)


def rounds(row: Mapping[str, Any]) -> str:
    return f"{row['rounds']} round{'s' * (row['rounds'] > 1)}"


def nanogpt(book: Mapping[str, Any], model: str) -> tuple[float | None, str]:
    """The ratio of halfstep as it is to whatever runs fastest of nanoGPT's, and which that is; out of throughput.json.

    Round by round with its loop as it is, else of the medians.
    """
    own = ours(book, model)
    rows = (row for row in book["rows"] if (row["model"], row["system"]) == (model, "nanogpt"))
    theirs = max(rows, key=lambda row: row["tokens_per_second"], default=None)
    if own is None or theirs is None:
        return None, ""
    said = f"its fastest, {theirs['variant']}, {rounds(theirs)}"
    if theirs["variant"] == PLAIN and own["beside"]:
        return own["beside"]["median"], said
    return own["tokens_per_second"] / theirs["tokens_per_second"], said
