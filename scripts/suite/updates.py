"""Whole updates of the optimizers that ask for more than a gradient and a step, beside AdamW's, in turns.

A curvature takes passes of its own, and hooks make the gradient's own pass longer: neither is in a step's time. Their
matches are those of part train, with the variant optimizer=NAME; the rounds are in throughput.json, with part train's.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conventions.keywords import bind
from models.gpt import GPT
from optimizers import build_optimizer, find
from scripts.bench.contenders import recipe
from scripts.bench.timing import spread
from scripts.study.cost import passes_per_step
from scripts.suite.beside import PLAIN
from scripts.suite.folder import Cell, Folder, commits, figure, markdown
from scripts.suite.match import Match
from scripts.suite.throughput import FILE
from scripts.suite.train_plan import Plan

VARIANT = "optimizer="
LEAST = 60  # seconds that must be left for a match: its sides are compiled before their first round
ROUNDS = 3  # at most: some turns are of a hundred updates


@dataclass(frozen=True)
class Updates(Plan):
    """The variants alone: each meets AdamW in its own match."""

    def matches(self) -> list[tuple[str, str]]:
        return [(model, variant) for variant in self.variants for model in self.models]


def beyond_steps(names: Iterable[str]) -> list[str]:
    """Those of the optimizers that make passes beside the gradient's, or hook into that one."""
    found = []
    for name in names:
        info = find(name)
        keywords = bind(info.constructor, recipe(name), "optimizer", ["params"])

        def build(model: Any, name: str = name, keywords: Mapping[str, Any] = keywords) -> Any:
            return build_optimizer(name, model, **keywords)

        build(model := GPT(layers=1, heads=1, width=4, context=2, vocabulary=4))
        hooked = any(module._forward_hooks for module in model.modules())
        if hooked or sum(passes_per_step(build).values()) > 1:
            found.append(name)
    return found


def tokens_of(folder: Folder, otherwise: int) -> int:
    """Per update: as part train had them in this folder."""
    book = _book(folder)
    return int(book["identity"]["tokens"]) if book else otherwise


def run(match: Match, fresh: bool, late: str) -> None:
    """As far as the time goes. fresh: it has a whole call; without a round to show for it it has failed, with the
    words `late`, so that what comes after it has its turn.
    """
    rounds = len(match.book["rounds"])
    match.run()
    if fresh and match.left() and len(match.book["rounds"]) == rounds:
        match.fail(("halfstep", match.variant), late)


def adamw_seconds(folder: Folder, model: str) -> float | None:
    """Of AdamW's update, from these matches; None: there was none."""
    found = [row["tokens"] / row["adamw_tokens_per_second"] for row in rows(folder)
             if row["model"] == model and "adamw_tokens_per_second" in row]  # fmt: skip
    return statistics.median(found) if found else None


def rows(folder: Folder) -> list[dict[str, Any]]:
    """One for each model and optimizer, out of throughput.json; with an `error` in place of rates where it failed."""
    book, found = _book(folder), []
    if book is None:
        return []
    tokens = book["identity"]["tokens"]
    for model, match in dict.fromkeys((r["model"], r["match"]) for r in book.get("rounds", [])):
        if match.startswith(VARIANT) and "+" not in match:
            mine = [r for r in book["rounds"] if (r["model"], r["match"]) == (model, match)]
            row = {"optimizer": match.removeprefix(VARIANT), "model": model, "tokens": tokens, **_compared(mine, match)}
            found += [row] if row["rounds"] else []
    for each in book.get("failures", []):
        if each["variant"].startswith(VARIANT) and "+" not in each["variant"]:
            name = each["variant"].removeprefix(VARIANT)
            found.append({"optimizer": name, "model": each["model"], "tokens": tokens, "error": each["error"]})
    return found


def _book(folder: Folder) -> dict[str, Any] | None:
    file = folder.path / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _compared(mine: Sequence[Mapping[str, Any]], match: str) -> dict[str, Any]:
    """The rounds that both sides ended."""
    sides = {v: {r["round"]: r for r in mine if r["variant"] == v} for v in (match, PLAIN)}
    both = [(row, sides[PLAIN][number]) for number, row in sides[match].items() if number in sides[PLAIN]]
    if not both:
        return {"rounds": 0}
    rates = [[row["tokens_per_second"] for row in side] for side in zip(*both, strict=True)]
    ratio = spread([ours / adamw for ours, adamw in zip(*rates, strict=True)])
    own, adamw = both[-1]
    return {
        "tokens_per_second": spread(rates[0])["median"], "adamw_tokens_per_second": spread(rates[1])["median"],
        "ratio": ratio, "extra_share": 1 / ratio["median"] - 1,
        "micro_batch": own["micro_batch"], "adamw_micro_batch": adamw["micro_batch"],
        "rounds": len(both), "commits": commits(mine),
    }  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; empty where nothing was measured."""
    if not found:
        return ""

    def span(row: Mapping[str, Any]) -> str:
        return f"{row['ratio']['low']:.3f} to {row['ratio']['high']:.3f}" if "ratio" in row else ""

    columns: dict[str, Cell] = {
        "optimizer": "optimizer", "model": "model", "tokens/s": figure("tokens_per_second"),
        "AdamW's tokens/s": figure("adamw_tokens_per_second"),
        "of AdamW's": lambda row: f"{row['ratio']['median']:.3f}" if "ratio" in row else "", "range": span,
        "beyond AdamW's update": figure("extra_share", 1, 100, " %"), "sequences per pass": "micro_batch",
        "AdamW's sequences per pass": "adamw_micro_batch", "rounds": "rounds", "": "error",
    }  # fmt: skip
    return (
        f"\nWhole updates of {found[0]['tokens']:,} tokens, curvature passes and hooks in them, over whole periods, in "
        "turns with AdamW's; and what one takes beyond AdamW's, as a share of that.\n\n"
        f"{markdown(columns, found)}"
    )
