"""Answers whether a newcomer is faster, in words: the verdict, the figures behind it, and what a verdict lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from conventions import quantity
from conventions.quantity import TITLE
from judge.arms import Arm
from judge.comparison import Comparison, Standing
from judge.fairness import unfair, unlike
from judge.ladder import RUNGS
from judge.row import Row
from judge.spread import SEEDS
from judge.timing import device_of

SHAPE = {"layers": "layers", "heads": "heads", "width": "wide"}


def verdict(comparison: Comparison, standing: Standing) -> dict[str, Any]:
    """Return a newcomer's line: the words of its verdict, each with its axes, and sentences with the figures."""
    base, label = comparison.standings[0], standing.arm.label
    rows = [row for row in comparison.rows if row.arm == label and row.rule == "matched"]
    vouched = [row for row in rows if row.decides or row.axis != "seconds"]  # the rest has a note
    text = []
    if standing.loss is not None and base.loss is not None:
        text.append(
            f"Final loss {quantity.loss(standing.loss)}{comparison.after(standing)} against {quantity.loss(base.loss)}."
        )
    if len(base.arm.lengths) >= RUNGS and any(row.speedup.known for row in vouched):
        text.append(f"For its loss {comparison.baseline} would need {_times(vouched)}.")
    if not standing.seeds:
        text.append("It has no finished run.")
    if standing.reached and comparison.target is not None and standing.length:
        place = f"{standing.reached.steps:,.0f} of {standing.length:,} updates"
        text.append(f"Inside this schedule it came to {quantity.loss(comparison.target)} after {place}.")
    elif standing.loss is not None and comparison.target is not None:
        text.append(f"It never came to {quantity.loss(comparison.target)}.")
    by_word: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict:
            by_word.setdefault(row.words, []).append(TITLE[row.axis])
    everywhere = ("diverged", *(word for word, axes in by_word.items() if len(axes) == len(TITLE)))
    where = {word: "" if word in everywhere else f" in {listed(axes)}" for word, axes in by_word.items()}
    return {"label": label, "words": where, "text": " ".join(text)}


def missing(comparison: Comparison, names: Mapping[str, str]) -> str:
    """Say what the folder lacks for a verdict; empty if nothing. names: what the arms are called, by label."""
    base = comparison.standings[0]
    counted = {row.arm: row.seeds for row in comparison.rows if row.rule == "matched"}
    few = [names[label] for label, seeds in counted.items() if seeds < SEEDS]
    lacking = []
    if len(base.arm.lengths) < RUNGS:
        lacking.append(f"a figure for the speed-up takes {comparison.baseline} runs of three lengths")
    if few:
        who = "" if len(few) == len(counted) else f", which {listed(few)} lack{'s' * (len(few) == 1)}"
        lacking.append(f"a verdict takes three seeds of each run{who}")
    text = listed(lacking) if comparison.rows else ""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def mismatches(comparison: Comparison, names: Mapping[str, str]) -> tuple[list[dict[str, str]], list[str]]:
    """Find what differs between compared runs but should not: rows with the baseline's value and others'; sentences.

    names: what the arms are called, by label.
    """
    base = comparison.standings[0].arm
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    shown: set[str] = set()
    for standing in comparison.standings[1:]:
        arm, lengths = standing.arm, (comparison.length, standing.length)
        differing = unlike(base, arm, *lengths).items()
        for sentence, (key, (theirs, ours)) in zip(unfair(base, arm, *lengths), differing, strict=True):
            shown.add(sentence)
            if sentence in comparison.warnings:  # what was tuned for each is none
                rows.setdefault((key, theirs), {}).setdefault(ours, []).append(names[arm.label])
    table = [
        {"key": key, "base": theirs, "value": value, "who": listed(who)}
        for (key, theirs), values in rows.items()
        for value, who in values.items()
    ]
    return table, [warning for warning in comparison.warnings if warning not in shown]


def facts(comparison: Comparison) -> str:
    """Return a line on what was compared: study, model, corpus, batch, device; of foreign runs where they are from."""
    run = next((run for run in comparison.runs if run.rows), comparison.runs[0])
    model, data, context = run.section("model"), run.section("data"), run.config.get("context")
    studies = sorted({str(run.manifest.get("study") or run.folder.parent.name) for run in comparison.runs})
    shape = ", ".join(f"{model[key]} {word}" for key, word in SHAPE.items() if key in model)
    tokens, origin = (
        run.section("batch").get("tokens"),
        run.known("origin", "repository") or run.known("origin", "format"),
    )
    facts = [
        f"Study {', '.join(studies)}: {len(comparison.runs)} runs",
        f"trained elsewhere ({origin})" if origin else "",
        " ".join(filter(None, [str(model.get("name") or "an unknown model"), shape and f"({shape})"])),
        str(data.get("name") or "unknown data") + (f", context {context}" if context else ""),
        f"{tokens:,} tokens per update" if tokens else "",
        ", ".join(sorted({device_of(run) for run in comparison.runs if run.rows})),
    ]
    return "; ".join(fact for fact in facts if fact) + "."


def study_of(comparison: Comparison) -> str:
    """Return the one study that the runs are of, as W&B knows them."""
    studies = sorted({str(run.config.get("study")) for run in comparison.runs})
    if len(studies) > 1:
        raise ValueError(f"the runs are of several studies ({', '.join(studies)}): give the folder of one of them")
    return studies[0]


def wins(base: Arm, arm: Arm) -> tuple[int, int]:
    """Count the seeds and lengths at which an arm ended below the baseline's, and those of which both have an outcome.

    A divergence is a defeat of whoever diverged; where both did, nobody won.
    """

    def outcomes(each: Arm) -> dict[tuple[int, int], float]:
        return {
            (run.seed, run.steps): float("inf") if run.final_loss is None else run.final_loss
            for run in each.runs
            if run.final_loss is not None or run.status == "diverged"
        }

    theirs, ours = outcomes(base), outcomes(arm)
    met = theirs.keys() & ours.keys()
    return sum(ours[place] < theirs[place] for place in met), len(met)


def listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _times(rows: Sequence[Row]) -> str:
    """Write `1.27 times the steps and FLOPs (1.17 to 1.36) and ...`, axes of the same figure together."""
    by_figure: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        ratio, words = row.speedup, {"above": "more than ", "below": "less than ", None: ""}
        figure = str(ratio).strip("<>") if ratio.value is not None else ratio.interval
        interval = f" ({ratio.interval})" if ratio.interval and ratio.censored is None else ""
        if ratio.known:
            by_figure.setdefault((f"{words[ratio.censored]}{figure}", interval), []).append(TITLE[row.axis])
    return listed([f"{text} times the {listed(axes)}{end}" for (text, end), axes in by_figure.items()])
