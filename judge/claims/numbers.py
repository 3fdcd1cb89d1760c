"""Lists the numbers of a claim's verdict, a row for each, the paper's and others' beside ours."""

import numpy as np

from judge.claims.measure import values
from judge.claims.others import number, subjects
from judge.claims.verdict import Verdict

HEADER = ["claim", "scale", "part", "kind", "name", "quantity", "paper", "recalled", "ours", "low", "high", "seeds",
          "verdict", "source"]  # fmt: skip


def numbers(verdict: Verdict) -> list[list[str]]:
    """Return rows of HEADER's columns, as text; what is not known is empty."""
    head, rows = [verdict.claim.name, verdict.scale.name], []
    for part, arm in verdict.every_arm:
        for name, asked in verdict.quantities.items():
            figure = verdict.paper_figure(part, arm.label, name)
            sample = values(asked, arm.finished(verdict.scale.length(part)))
            theirs = ["", ""] if figure is None else [f"{figure.value:g}", str(figure.recalled).lower()]
            ours = "" if sample is None else f"{sample.mean():.6g}"
            seeds = "" if sample is None else str(len(sample))
            rows.append([*head, part, "arm", arm.label, name, *theirs, ours, "", "", seeds, "", ""])
    for part, cell, speedup in verdict.public:
        known = (speedup.value, speedup.low, speedup.high) if speedup else ()
        ratio = ["" if n is None else f"{n:.6g}" for n in known]
        name = f"{cell.arm} at {cell.budget}" if cell.budget else cell.arm
        rows.append([*head, part, "arm", name, "loss", "", "", f"{np.mean(cell.losses):.6g}", "", "",
                     str(len(cell.losses)), "", cell.source])  # fmt: skip
        if speedup:
            rows.append([*head, part, "arm", name, "speedup", "", "", *ratio, str(len(cell.losses)), "", cell.source])
    for each in verdict.findings:
        for axis, measured in each.measured.items():
            numbers = [measured.estimate.value, measured.estimate.low, measured.estimate.high]
            decides = each.verdict if measured is each.main else ""
            rows.append([*head, each.part, "statement", each.statement.says, axis or str(each.statement.quantity),
                         f"{each.statement.figure:g}", "", *("" if n is None else f"{n:.6g}" for n in numbers),
                         str(measured.seeds), decides, ""])  # fmt: skip
    for other in verdict.claim.others:
        for statement in subjects(verdict.claim, other) if number(verdict.claim, other) else []:
            value, *ends = ("" if n is None else f"{n:g}" for n in (other.value, other.low, other.high))
            rows.append([*head, "", "other", statement.says, statement.quantity or statement.axis, value,
                         str(other.recalled).lower(), "", *ends, "", "", other.source])  # fmt: skip
    return rows
