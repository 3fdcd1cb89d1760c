"""A claim's verdict in words and numbers: what was claimed, what came out, what is to be known about it.

Tables, pages and `claims verify --json` say all of it in the same words.
"""

from typing import Any

from conventions.config_keys import plain
from conventions.quantity import loss
from judge.arms import Arm
from judge.claims.claim import Claim, Other, PaperFigure, Quantity
from judge.claims.measure import values
from judge.claims.others import number, subjects, unit
from judge.claims.statement import Statement
from judge.claims.tokenizers import may_say
from judge.claims.verdict import Finding, Verdict
from judge.estimate import Speedup
from judge.spread import mean_and_deviation

RECALLED = "* recalled, not found in a source"
OURS = "† the figure is ours: the paper puts none on it"


def others_lines(claim: Claim) -> list[str]:
    """Say what others measured, a sentence or two on each."""
    lines = []
    for other in claim.others:
        about = ", ".join(filter(None, (other.source, other.where)))
        numbered = number(claim, other)
        lines.append(f"{about}: {f'{numbered}. ' if numbered else ''}{other.says}")
    return lines


def came_out(verdict: Verdict, finding: Finding, axis: str | None = None) -> str:
    """Return the number that decides, with its interval; of a speed-up, or the one on another axis."""
    own = "" if "" in finding.measured else finding.statement.axis
    return estimate(verdict, finding, own if axis is None else axis)


def claimed(verdict: Verdict, statement: Statement) -> str:
    """Write the figure that will do: `≥ 2 in steps, less 10 %`."""
    asked = verdict.claim.quantities[statement.quantity] if statement.quantity else None
    if statement.measure == "speedup" or asked is None:
        asserted, where = plain(statement.figure), unit(statement)
    else:
        asserted, where = _text(statement, statement.figure, asked), ""
    bound, side = ("≥", "less") if statement.at_least is not None else ("≤", "plus")
    slack = f", {side} {100 * statement.tolerance:g} %" if statement.tolerance else ""
    return f"{bound} {asserted}{where}{slack}{' †' * statement.ours}"


def summary(verdict: Verdict) -> list[str]:
    """Return the verdict of each part, in a line, and what it may mean."""
    lines = [f"{part or 'across parts'}: {word}" for part, word in verdict.words.items()]
    lines = lines or ["These parts alone decide nothing: the claim is tested across parts."]
    where = "by public runs" if verdict.public else f"at the scale {verdict.scale.name}"
    return [*lines, f"What a verdict {where} may say: {may_say(verdict)}"]


def notes(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    figures: list[PaperFigure | Other] = [*claim.figures, *claim.others]
    recalled = [RECALLED] if any(each.recalled for each in figures) else []
    ours = [OURS] if any(each.statement.ours for each in verdict.findings) else []
    return [*recalled, *ours, *verdict.notes]


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return everything, with numbers as numbers; null where an interval's end is open or there is none."""
    return {
        **{"claim": verdict.claim.name, "scale": verdict.scale.name, "verdicts": verdict.words},
        "statements": [
            {
                **{"part": each.part or None, "says": each.statement.says, "verdict": each.verdict},
                **{"figure": each.statement.figure, "threshold": each.statement.threshold},
                "at_most": each.statement.at_most is not None,
                "axis": each.statement.axis if each.statement.measure == "speedup" else None,
                "measured": [
                    {"axis": axis or None, "value": measured.estimate.value, "low": measured.estimate.low,
                     "high": measured.estimate.high, "censored": measured.estimate.censored, "seeds": measured.seeds}
                    for axis, measured in each.measured.items()
                ],
            }
            for each in verdict.findings
        ],
        "others": [
            {"source": each.source, "says": each.says, "where": each.where, "recalled": each.recalled,
             "beside": [statement.says for statement in subjects(verdict.claim, each)],
             "value": each.value, "low": each.low, "high": each.high}
            for each in verdict.claim.others
        ],
        **{"missing": [each.name for each in verdict.missing]},
        **{"warnings": verdict.warnings, "notes": notes(verdict)},
    }  # fmt: skip


def public_rows(verdict: Verdict) -> list[list[str]]:
    """Return a row for each cell of public runs: part, arm, budget, length, seeds, loss, speed-up, interval."""
    rows = []
    for part, cell, speedup in verdict.public:
        length = f"{cell.updates:,} updates" if cell.updates else f"{cell.tokens / 1e9:.3g}B tokens"
        end = loss(*mean_and_deviation(cell.losses))
        ratio = [str(speedup), speedup.interval] if speedup else ["", ""]
        rows.append([part, cell.arm, cell.budget, length, str(len(cell.losses)), end, *ratio])
    return rows


def again(verdict: Verdict) -> str:
    """Return a sentence on how the numbers are made again."""
    if verdict.public:
        return (
            f"`python -m scripts.claims verify {verdict.claim.word} --scale public` reads the tables of results/public"
        )
    command = f"python -m scripts.claims run {verdict.claim.word} --scale {verdict.scale.name}"
    there = [part for part in verdict.parts if any(arm.runs for arm in verdict.arms[part].values())]
    if there != list(verdict.scale.parts):
        command += "".join(f" --part {part}" for part in there)
    return f"`{command}` makes the runs again"


def runs_of(verdict: Verdict, part: str, arm: Arm) -> str:
    """Count the runs with a final loss, of those planned, at all lengths: `9/9`, `7/9 (1 diverged)`."""
    done = sum(run.final_loss is not None for run in arm.runs)
    missing = sum((each.part, each.arm) == (part, arm.label) for each in verdict.missing)
    diverged = sum(run.status == "diverged" for run in arm.runs)
    return f"{done}/{len(arm.runs) + missing}" + (f" ({diverged} diverged)" if diverged else "")


def ours(arm: Arm, length: int, asked: Quantity) -> str:
    sample = values(asked, arm.finished(length))
    if sample is None:
        return ""
    deviation = float(sample.std(ddof=1)) if len(set(sample)) > 1 else 0.0  # of equal numbers it is not quite 0
    spread = f" ± {_number(deviation, asked)}" if len(sample) > 1 else ""
    return _number(float(sample.mean()), asked) + spread


def estimate(verdict: Verdict, finding: Finding, axis: str) -> str:
    """Write an estimate with its interval: `1.42 (1.31 to 1.55)`."""
    if axis not in finding.measured:
        return ""
    estimate, statement = finding.measured[axis].estimate, finding.statement
    if statement.measure == "speedup" or statement.quantity is None:
        value = "" if estimate.value is None and estimate.interval else str(estimate)
        interval = estimate.interval
    else:
        asked = verdict.claim.quantities[statement.quantity]
        value = "?" if estimate.value is None else _text(statement, estimate.value, asked)
        interval = " to ".join(_text(statement, end, asked) for end in _ends(estimate))
    return f"{value} ({interval})".strip() if interval else value


def _ends(estimate: Speedup) -> list[float]:
    return [] if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]


def _text(statement: Statement, value: float, asked: Quantity) -> str:
    return f"{value:.3f}" if statement.measure == "ratio" else _number(value, asked)


def _number(value: float, asked: Quantity) -> str:
    """Write a number with its quantity's digits, or with more where it would otherwise round to nothing."""
    return f"{value:.3g}" if value and abs(value) < 10**-asked.digits else f"{value:,.{asked.digits}f}"
