"""Writes one self-contained HTML page on a folder of runs: it needs no network, no script and no other file.

    python -m scripts.report results/runs/my_study --baseline adamw
    python -m scripts.report results/runs/my_study --output report.html

Expect FOLDER/report.html: the verdicts, final losses, speed-ups, curves against steps, FLOPs and seconds, the ladder,
learning rates, where the cost went, and every run's config and manifest. The same runs give the same bytes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness import quantity
from harness.arms import Arm
from harness.comparison import Comparison, Standing, compare
from harness.ladder import RUNGS, SEEDS
from harness.quantity import AXIS, TITLE
from harness.records import AXES, find_runs
from harness.sentence import one_sentence
from harness.speedup import Row, device_of
from scripts import figures

SHAPE = {"layers": "layers", "heads": "heads", "width": "wide"}
LARGEST = 6_000_000  # bytes of a page that still mails and opens at once


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with runs anywhere below it")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    parser.add_argument("--output", type=Path, help="file to write (default: FOLDER/report.html)")
    options = parser.parse_args(arguments)
    with one_sentence():
        path = options.output or options.folder / "report.html"
        write(compare(find_runs(options.folder), options.baseline), path)
    print(f"report: {path}")


def write(comparison: Comparison, path: Path) -> None:
    """Renders the page and puts it in place in one move."""
    page = render(comparison)
    if len(page.encode()) > LARGEST:
        page = render(comparison, details=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)


def render(comparison: Comparison, details: bool = True) -> str:
    """The page. details: with every run's config and manifest in it."""
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    styles = figures.style_of(comparison)
    return template.render(
        title=f"Faster than {comparison.baseline}?",
        facts=_facts(comparison),
        baseline=comparison.baseline,
        warnings=comparison.warnings,
        verdicts=[_verdict(comparison, standing) for standing in comparison.standings[1:]],
        missing=_missing(comparison),
        titles=list(TITLE.values()),
        length=comparison.length,
        target=quantity.loss(comparison.target),
        standings=[_standing(standing) for standing in comparison.standings],
        speedups=_speedups(comparison),
        swatch=lambda label: _swatch(*styles[label]),
        legend=[standing.arm.label for standing in comparison.standings if standing.seeds],
        curves=_drawn(figures.curves(comparison, axis) for axis in AXES),
        ladder=_drawn([figures.ladder(comparison)]),
        learning_rates=_drawn([figures.learning_rates(comparison)]),
        costs=_drawn(
            [
                figures.parts(comparison, "seconds"),
                figures.parts(comparison, "flops"),
                figures.memory(comparison, "state_per_parameter", "state, bytes per parameter"),
                figures.memory(comparison, "peak", "peak memory, GB", 1e-9),
            ]
        ),
        parts={"data": "data", "gradient": "gradient (model)", "curvature": "curvature", "optimizer": "optimizer"},
        part_colors=figures.PARTS,
        notes=comparison.notes,
        arms=[_arm(arm, details) for arm in comparison.arms],
    )


def _verdict(comparison: Comparison, standing: Standing) -> dict[str, Any]:
    """The newcomer's line on top: a word, and sentences with the figures behind it."""
    base, label = comparison.standings[0], standing.arm.label
    rows = [row for row in comparison.rows if row.arm == label and row.rule == "matched"]
    text = []
    if standing.loss is not None and base.loss is not None:
        text.append(f"Final loss {quantity.loss(standing.loss)} against {quantity.loss(base.loss)}.")
    if len(base.arm.lengths) >= RUNGS and any(row.speedup.known for row in rows):
        text.append(f"For its loss {comparison.baseline} would need {_times(rows)}.")
    if not standing.seeds:
        text.append("It has no finished run of this length.")
    if standing.reached and comparison.target is not None and comparison.length:
        place = f"{standing.reached.steps:,.0f} of {comparison.length:,} updates"
        text.append(f"Inside this schedule it came to {quantity.loss(comparison.target)} after {place}.")
    elif standing.loss is not None and comparison.target is not None:
        text.append(f"It never came to {quantity.loss(comparison.target)}.")
    by_word: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict:
            by_word.setdefault(row.verdict, []).append(TITLE[row.axis])
    where = {word: f" in {_listed(axes)}" if len(by_word) > 1 else "" for word, axes in by_word.items()}
    return {"label": label, "words": where, "text": " ".join(text)}


def _missing(comparison: Comparison) -> str:
    """What the folder lacks for a verdict; empty if nothing."""
    seeds = min((row.seeds for row in comparison.rows if row.rule == "matched"), default=SEEDS)
    lacking = []
    if len(comparison.standings[0].arm.lengths) < RUNGS:
        lacking.append(f"a figure for the speed-up takes {comparison.baseline} runs of three lengths")
    if seeds < SEEDS:
        lacking.append("a verdict takes three seeds of each run")
    text = _listed(lacking) if comparison.rows else ""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _times(rows: Sequence[Row]) -> str:
    """`1.27 times the steps and FLOPs (1.17 to 1.36) and ...`, axes of the same figure together."""
    by_figure: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        ratio, words = row.speedup, {"above": "more than ", "below": "less than ", None: ""}
        figure = str(ratio).strip("<>") if ratio.value is not None else ratio.interval
        interval = f" ({ratio.interval})" if ratio.interval and ratio.censored is None else ""
        if ratio.known:
            by_figure.setdefault((f"{words[ratio.censored]}{figure}", interval), []).append(TITLE[row.axis])
    return _listed([f"{text} times the {_listed(axes)}{end}" for (text, end), axes in by_figure.items()])


def _standing(standing: Standing) -> dict[str, Any]:
    cells = []
    for axis, text in AXIS.items():
        row = standing.rows.get(axis)
        cost = text(getattr(standing.reached, axis)) if standing.reached else "never" if standing.seeds else ""
        cells.append({"cost": cost, "ratio": f"{row.speedup}x" if row and row.speedup.known else ""})
    seeds = f"{standing.seeds} seeds" if standing.seeds > 1 else "1 seed" if standing.seeds else ""
    chosen = f", best of {standing.tried} settings" if standing.tried > 1 else ""
    loss = quantity.loss(standing.loss, standing.spread) if standing.seeds else "no finished run"
    return {"label": standing.arm.label, "loss": loss, "seeds": seeds + chosen, "cells": cells}


def _speedups(comparison: Comparison) -> list[dict[str, Any]]:
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        lines.setdefault((row.arm, row.rule), []).append(row)
    return [
        {
            "label": label,
            "rule": rule,
            "seeds": rows[0].seeds,
            "cells": [
                {"value": str(row.speedup), "interval": row.speedup.interval, "verdict": row.verdict or ""}
                for row in rows
            ],
        }
        for (label, rule), rows in lines.items()
        if rule != "target" and any(row.speedup.known or row.verdict for row in rows)
    ]


def _facts(comparison: Comparison) -> str:
    run = next((run for run in comparison.runs if run.rows), comparison.runs[0])
    config, model = run.config, run.config.get("model", {})
    studies = sorted({str(run.manifest.get("study") or run.folder.parent.name) for run in comparison.runs})
    shape = ", ".join(f"{model[key]} {word}" for key, word in SHAPE.items() if key in model)
    facts = [
        f"Study {', '.join(studies)}: {len(comparison.runs)} runs",
        f"{model.get('name')} ({shape})",
        f"{config.get('data', {}).get('name')}, context {config.get('context')}",
        f"{config.get('batch', {}).get('tokens'):,} tokens per update",
        ", ".join(sorted({device_of(run) for run in comparison.runs if run.rows})),
    ]
    return "; ".join(fact for fact in facts if fact) + "."


def _arm(arm: Arm, details: bool) -> dict[str, Any]:
    lengths = ", ".join(f"{length:,}" for length in arm.lengths) or "none"
    return {
        "label": arm.label,
        "about": f"{len(arm.runs)} run{'s' * (len(arm.runs) > 1)}, finished lengths: {lengths}",
        "runs": [
            {
                "name": run.name,
                "about": f"{run.status}, {run.step:,} of {run.steps:,} updates, loss {quantity.loss(run.final_loss)}",
                "folder": str(run.folder),
                "config": (run.folder / "config.yaml").read_text(encoding="utf-8") if details else "",
                "manifest": json.dumps(run.manifest, indent=1) if details else "",
            }
            for run in arm.runs
        ],
    }


def _swatch(color: str, dash: Any) -> Markup:
    pattern = {"-": "", "-.": "6 2 1.5 2"}.get(dash, "") if isinstance(dash, str) else " ".join(map(str, dash[1]))
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" stroke="{}" stroke-width="2" '
        'stroke-dasharray="{}"/></svg>'
    ).format(color, pattern)


def _drawn(svgs: Any) -> list[Markup]:
    return [Markup(svg) for svg in svgs if svg]


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


if __name__ == "__main__":
    main()
