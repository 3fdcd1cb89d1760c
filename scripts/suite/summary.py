"""The front page's figures of every device that bench_suite has measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.suite import beside, optimizers, throughput
from scripts.suite.folder import Cell, figure, markdown
from scripts.suite.goals import MODEL

NONE = "None has been measured yet: `make bench-suite` does it, a part at a time, and `make tables` puts it here.\n"


def summary(places: Sequence[Path]) -> str:
    """Markdown, out of the JSON in folders of results/hardware; NONE where there is none."""
    return "\n".join(text for place in places if (text := _device(place))) or NONE


def _device(place: Path) -> str:
    books = {part.FILE: _read(place / part.FILE) for part in (throughput, optimizers)}
    rates, steps = books[throughput.FILE], books[optimizers.FILE]
    known = next((book for book in (rates, steps) if book), None)
    if known is None:
        return ""
    text = f"**{known['identity']['device']}**; all tables, commits and commands are in `{_named(place)}`.\n"
    if rates and (shown := _rates(rates)):
        text += f"\n{shown}"
    if steps and steps["rows"]:
        text += f"\n{_steps(steps)}"
    return text


def _rates(book: Mapping[str, Any]) -> str:
    """Empty where nothing but whole updates of part optimizers was measured."""

    def ratio(row: Mapping[str, Any]) -> str:
        value, theirs = beside.nanogpt(book, row["model"])
        return f"{value:.2f}x of {theirs}" if row["system"] == "halfstep" and value is not None else ""

    columns: dict[str, Cell] = {
        "model": "model", "system": lambda row: _system(row), "tokens/s": figure("tokens_per_second"),
        "MFU": figure("mfu", 1, 100, " %"), "of the best product's rate": figure("of_matmul", 1, 100, " %"),
        "beside nanoGPT": ratio,
    }  # fmt: skip
    rows = [row for row in book["rows"] if row["system"] != "halfstep" or row["variant"] == beside.PLAIN]
    return markdown(columns, sorted(rows, key=lambda row: (row["model"], row["system"]))) if rows else ""


def _system(row: Mapping[str, Any]) -> str:
    return str(row["system"]) if row["variant"] == beside.PLAIN else f"{row['system']}, {row['variant']}"


def _steps(book: Mapping[str, Any]) -> str:
    """Of GPT-2 125M or, without it, of the first model: each optimizer by its YAML, whatever of ours
    is quickest, and its references.
    """
    model = next((row["model"] for row in book["rows"] if row["model"] == MODEL), book["rows"][0]["model"])
    rows = []
    for name in dict.fromkeys(row["optimizer"] for row in book["rows"]):
        mine = [row for row in book["rows"] if (row["model"], row["optimizer"]) == (model, name)]
        ours = [row for row in mine if row["implementation"].startswith("halfstep")]
        plain = [row for row in ours if not row["way"]]
        best = sorted(ours, key=lambda row: row["amortised_ms"])[:1]
        kept = [*plain[-1:], *(row for row in best if row["way"])]  # the last of two is compiled
        rows += [*kept, *(row for row in mine if row not in ours)]
    columns: dict[str, Cell] = {
        "optimizer": lambda row: optimizers.shown(row["optimizer"], row["way"]), "by": "implementation",
        "ms a step": figure("amortised_ms", 2), "of AdamW's": lambda row: f"{row['ratio']['median']:.2f}x",
        "of a whole update": figure("share_of_step", 1, 100, " %"),
    }  # fmt: skip
    return f"Steps on {model}, fused AdamW's as the unit.\n\n{markdown(columns, rows)}"


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _named(place: Path) -> str:
    """From README's folder."""
    return place.relative_to(place.parents[2]).as_posix()
