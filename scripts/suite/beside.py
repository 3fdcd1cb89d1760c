"""Halfstep beside nanoGPT, in one way for every page."""

from collections.abc import Mapping
from typing import Any

PLAIN = "plain"


def nanogpt(book: Mapping[str, Any], model: str) -> tuple[float | None, str]:
    """The ratio of halfstep as it is to whatever runs fastest of nanoGPT's, and which that is; out of throughput.json.

    Round by round with its loop as it is, else of the medians.
    """
    rows = [row for row in book["rows"] if row["model"] == model]
    ours = next((row for row in rows if (row["system"], row["variant"]) == ("halfstep", PLAIN)), None)
    theirs = max((row for row in rows if row["system"] == "nanogpt"), key=lambda row: row["tokens_per_second"],
                 default=None)  # fmt: skip
    if ours is None or theirs is None:
        return None, ""
    rounds = f"{theirs['rounds']} round{'s' * (theirs['rounds'] > 1)}"
    said = f"its fastest, {theirs['variant']}, {rounds}"
    if theirs["variant"] == PLAIN and ours["beside"]:
        return ours["beside"]["median"], said
    return ours["tokens_per_second"] / theirs["tokens_per_second"], said
