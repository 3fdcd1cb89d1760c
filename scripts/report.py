"""Writes one self-contained HTML page on a folder of runs: it needs no network, no script and no other file.

    python -m scripts.report results/runs/my_study --baseline adamw
    python -m scripts.report results/runs/my_study --output report.html

Expect FOLDER/report.html: what is unlike, the verdicts (of a race, in which each optimizer ran once, who led), final
losses, speed-ups, curves against steps, FLOPs and seconds, the ladder, learning rates, where the cost went, what was
lost, and every run's config and manifest. The same runs give the same bytes. scripts/plot.py writes the figures one by
one, for papers.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from conventions import atomic, quantity
from conventions.paths import path_argument
from conventions.quantity import TITLE
from conventions.run_format import AXES
from conventions.sentence import Arguments, one_sentence
from judge import means, race, report_tables
from judge.answer import facts, mismatches, missing, verdict
from judge.arms import Arm
from judge.comparison import Comparison, compare
from judge.fairness import endings
from judge.oddities import badges, oddities, usual_device
from judge.records import Run, find_runs
from judge.tuning.trials import Tuning, tuning_of, with_tuning
from scripts.pages import bars, figures, tuning_figure
from scripts.pages.canvas import Drawing, Style, by_optimizer, style_of

LARGEST = 6_000_000  # bytes of a page that still mails and opens at once


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.report", __doc__)
    parser.add_argument("folder", type=path_argument, help="folder with runs anywhere below it")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    parser.add_argument("--output", type=path_argument, help="file to write (default: FOLDER/report.html)")
    options = parser.parse_args(arguments)
    with one_sentence():
        path = options.output or options.folder / "report.html"
        tunings = tuning_of(options.folder.resolve())
        comparison = with_tuning(compare(find_runs(options.folder), options.baseline), tunings)
        atomic.write_text(path, page(comparison, tunings))
    print(f"report: {path}")


def page(comparison: Comparison, tunings: Mapping[str, Tuning] | None = None) -> str:
    """Return the page with every run's config and manifest in it, or without where it would be too large.

    tunings: what its optimizers were tuned on.
    """
    whole = render(comparison, tunings=tunings)
    return whole if len(whole.encode()) <= LARGEST else render(comparison, details=False, tunings=tunings)


def template(name: str) -> Template:
    """Return a template of scripts/pages; a value that it is not given is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def render(comparison: Comparison, details: bool = True, tunings: Mapping[str, Tuning] | None = None) -> str:
    """Return the page. details: with every run's config and manifest in it."""
    styles = style_of(comparison)
    names = {label: style.name for label, style in styles.items()}
    differing, unequal = mismatches(comparison, names)
    (shares, kinds), (outside, outside_colors) = bars.shares(comparison), bars.outside(comparison)
    anchors = {str(run.folder): f"run-{number}" for run, number in zip(comparison.runs, count(1), strict=False)}
    racing = race.is_race(comparison)
    notes = race.notes(comparison) if racing else comparison.notes
    return template("report.html").render(
        title=f"A race against {comparison.baseline}" if racing else f"Faster than {comparison.baseline}?",
        facts=facts(comparison),
        baseline=comparison.baseline,
        mismatches=differing,
        unequal=unequal,
        race=report_tables.race_table(comparison, names) if racing else None,
        verdicts=[] if racing else [verdict(comparison, each) for each in comparison.standings[1:]],
        missing=missing(comparison, names),
        titles=list(TITLE.values()),
        length=comparison.length,
        target=quantity.loss(comparison.target),
        standings=[report_tables.standing(each, comparison.after(each)) for each in comparison.standings],
        speedups=[] if racing else report_tables.speedups(comparison),
        swatch=lambda label: _swatch(styles[label]),
        color=lambda label: styles[label].color,
        patch=_patch,
        legend=[(each.arm.label, styles[each.arm.label].name) for each in comparison.standings if each.seeds],
        curves=_curves(comparison),
        numbers=report_tables.numbers(comparison, names),
        ladder=_drawn([figures.ladder(comparison)]),
        learning_rates=_drawn([figures.learning_rates(comparison)]),
        tuning=_drawn([tuning_figure.learning_rates(tunings or {}, "tuning", by_optimizer(comparison))]),
        trials=report_tables.trials(comparison, names, tunings or {}),
        scores=means.scores_by_arm(comparison),
        costs=_drawn([bars.parts(comparison, "seconds"), bars.parts(comparison, "flops")]),
        parts={"data": "data", "gradient": "gradient (model)", "curvature": "curvature", "optimizer": "optimizer"},
        part_colors=bars.PARTS,
        outside=_drawn([outside]),
        outside_colors=outside_colors,
        memory=_drawn(
            [
                bars.memory(comparison, "state_per_parameter", "state, bytes per parameter"),
                bars.memory(comparison, "peak", "peak memory, GB", 1e-9),
            ]
        ),
        shares=_drawn([shares]),
        kinds=kinds,
        oddities=oddities(comparison),
        anchor=lambda run: anchors[str(run.folder)],
        notes=[note for note in notes if note not in set(endings(comparison.runs))],  # a table has those
        arms=[_arm(arm.label, arm.runs, comparison, details) for arm in _with_copies(comparison)],
    )


def _curves(comparison: Comparison) -> list[dict[str, Markup]]:
    """Draw the figure of each axis that is known, on every scale."""
    by_axis = [{scale: figures.curves(comparison, axis, scale) for scale in figures.SCALES} for axis in AXES]
    return [
        {scale.replace(" ", "-"): Markup(drawing.svg()) for scale, drawing in by_scale.items() if drawing}
        for by_scale in by_axis
        if by_scale["linear"]
    ]


def _with_copies(comparison: Comparison) -> list[Arm]:
    """Return every arm, and the runs that only repeat another one: they count once, but they are not hidden."""
    counted = {run.folder for arm in comparison.arms for run in arm.runs}
    copies = [run for run in comparison.runs if run.folder not in counted]
    return comparison.arms + ([Arm("", {}, copies, "Repeated runs, counted once")] if copies else [])


def _arm(label: str, runs: Sequence[Run], comparison: Comparison, details: bool) -> dict[str, Any]:
    device = usual_device(comparison)
    lengths = sorted({run.steps for run in runs if run.final_loss is not None})
    finished = ", ".join(f"{length:,}" for length in lengths) or "none"
    return {
        "label": label,
        "about": f"{len(runs)} run{'s' * (len(runs) > 1)}, finished lengths: {finished}",
        "runs": [
            {
                "run": run,
                "name": run.name,
                "about": f"{run.step:,} of {run.steps:,} updates, loss {quantity.loss(run.final_loss)}",
                "badges": badges(run, device),
                "folder": str(run.folder),
                "config": (run.folder / "config.yaml").read_text(encoding="utf-8") if details else "",
                "manifest": json.dumps(run.manifest, indent=1) if details else "",
            }
            for run in runs
        ],
    }


def _swatch(style: Style) -> Markup:
    dash = "" if isinstance(style.dash, str) else " ".join(map(str, style.dash[1]))
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" stroke="{}" stroke-width="2" '
        'stroke-dasharray="{}"/></svg>'
    ).format(style.color, dash)


def _patch(color: str, part: str) -> Markup:
    """Return a square of a part's colour, and stripes where its bars have them."""
    stripes = '<path d="M1 7L7 0M7 7L13 0M13 7L19 0" stroke="#fff" stroke-width=".9"/>' if part in bars.HATCHED else ""
    return Markup(
        '<svg class="swatch" viewBox="0 0 19 7" aria-hidden="true"><rect width="19" height="7" fill="{}"/>{}</svg>'
    ).format(color, Markup(stripes))


def _drawn(drawings: Sequence[Drawing | None]) -> list[Markup]:
    return [Markup(drawing.svg()) for drawing in drawings if drawing]


if __name__ == "__main__":
    main()
