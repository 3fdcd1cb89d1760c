"""The rows of a report's tables, which its page lays out. `names`: what the page calls the arms, by label."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from conventions import quantity
from conventions.config_keys import plain
from conventions.quantity import AXIS
from judge import race
from judge.comparison import Comparison, Standing
from judge.comparison_tables import telling
from judge.means import curves_of
from judge.oddities import LOST, word
from judge.tuning.trials import Tuning

SHOWN = 20  # evaluations of a curve that stand in a table


def race_table(comparison: Comparison, names: Mapping[str, str]) -> dict[str, Any]:
    """Describe a race: who led, a line for each optimizer that finished, in the order of places, and what decides."""
    lines = []
    for each in race.places(comparison):
        updates = each.reached.steps if each.reached else None
        row = each.rows.get("steps")
        lines.append(
            {
                "label": each.arm.label,
                "name": names[each.arm.label],
                "share": min(1.0, updates / comparison.length) if updates and comparison.length else None,
                "updates": "never" if updates is None else f"{updates:,.0f}",
                "times": f"{row.speedup}x" if row and row.speedup.known and updates else "",
                "loss": quantity.loss(each.loss),
            }
        )
    goal, takes = race.goal(comparison), race.verdict_takes(comparison)
    return {"leader": race.leader(comparison), "goal": goal, "takes": takes, "lines": lines}


def standing(each: Standing, after: str = "") -> dict[str, Any]:
    """Make a line of the first table: final loss, what the way to the target cost, and what became of lost runs.

    after: where it stands at a length of its own, which.
    """
    cells = []
    for axis, text in AXIS.items():
        row = each.rows.get(axis)
        cost = text(getattr(each.reached, axis)) if each.reached else "never" if each.seeds else ""
        cells.append({"cost": cost, "ratio": f"{row.speedup}x" if row and row.speedup.known else ""})
    seeds = f"{each.seeds} seeds" if each.seeds > 1 else "1 seed" if each.seeds else ""
    chosen = f", best of {each.tried} settings" if each.tried > 1 else ""
    loss = quantity.loss(each.loss, each.spread) + after if each.seeds else "no finished run"
    lost = Counter(word(run.status) for run in each.arm.runs if run.status in LOST)
    name, _, settings = each.arm.label.partition(" ")
    return {
        "label": each.arm.label,
        "name": name,
        "settings": settings,
        "loss": loss,
        "seeds": seeds + chosen,
        "lost": ", ".join(f"{count} {status}" for status, count in lost.items()),
        "cells": cells,
    }


def speedups(comparison: Comparison) -> list[dict[str, Any]]:
    """Make a line for each newcomer and rule that has something to say."""
    return [
        {
            "label": label,
            "name": label.partition(" ")[0],
            "settings": label.partition(" ")[2],
            "rule": rule,
            "seeds": rows[0].seeds,
            "cells": [
                {"value": str(row.speedup), "interval": row.speedup.interval, "verdict": row.words} for row in rows
            ],
        }
        for (label, rule), rows in telling(comparison).items()
        if rule != "target"
    ]


def trials(comparison: Comparison, names: Mapping[str, str], tunings: Mapping[str, Tuning]) -> list[dict[str, Any]]:
    """Make a line for each compared optimizer: what it was tuned on and the best that came of it; empty if none was."""
    base = tunings.get(comparison.baseline)
    fewest = len(base.trials) if base else 0
    lines = []
    for each in comparison.standings if tunings else []:
        tuning = tunings.get(each.optimizer)
        best = tuning.best if tuning else None
        lines.append(
            {
                "name": names[each.arm.label],
                "count": len(tuning.trials) if tuning else 0,
                "more": len(tuning.trials) > fewest if tuning else False,
                "again": len(tuning.again) if tuning else 0,
                "diverged": tuning.diverged if tuning else 0,
                "best": ", ".join(
                    f"{key.rpartition('.')[2]} {plain(value)}" for key, value in (best.settings if best else {}).items()
                ),
                "loss": quantity.loss(tuning.loss) if tuning else "",
                "flops": quantity.flops(tuning.flops) if tuning else "",
            }
        )
    return lines


def numbers(comparison: Comparison, names: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Make a table of the curves: its columns, and some twenty rows of updates, tokens and mean losses there."""
    curves = curves_of(comparison, "steps")
    by_step = [{point.steps: point.loss for point in curve} for _, curve, _ in curves]
    steps = sorted(set().union(*by_step)) if by_step else []
    every = -(-len(steps) // SHOWN) or 1
    kept = [step for i, step in enumerate(steps) if (len(steps) - 1 - i) % every == 0]
    titles = [names[label] for label, _, _ in curves]
    per_step = next((run.known("tokens_per_step") for run in comparison.runs if run.known("tokens_per_step")), None)
    tokens = [f"{step * per_step:,.0f}" if per_step else "unknown" for step in kept]
    return ["updates", "tokens", *titles], [
        [f"{step:,.0f}", seen, *(quantity.loss(losses.get(step)) for losses in by_step)]
        for step, seen in zip(kept, tokens, strict=True)
    ]
