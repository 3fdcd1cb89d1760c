"""Lays out what came of a claim in tables, and writes them as Markdown, LaTeX and CSV."""

from collections.abc import Sequence

from conventions import quantity
from conventions.grid import Grid, comma_separated, latex, markdown
from conventions.quantity import TITLE
from conventions.run_format import AXES
from judge.claims.claim import Claim
from judge.claims.numbers import HEADER, numbers
from judge.claims.others import number
from judge.claims.verdict import Verdict
from judge.claims.words import again, came_out, claimed, estimate, notes, ours, public_rows, runs_of, summary
from judge.spread import mean_and_deviation

FORMATS = ("markdown", "latex", "csv")
PAPER = ", paper"  # ends the heading of a column of the paper's figures; ours is the next


def arms_grid(verdict: Verdict) -> Grid:
    """Make a line for each part and arm: the final loss at T, other quantities, and the paper's figures beside them."""
    if verdict.public:
        header = ["part", "arm", "budget", "length", "seeds", "final loss", "speed-up", "95 % interval"]
        return Grid("The runs that others published", header, public_rows(verdict))
    header = ["part", "arm", "runs", "final loss"]
    cited = {figure.quantity for figure in verdict.claim.figures}
    shown = {k: q for k, q in verdict.quantities.items() if k in cited or q.metric != "val/loss" or q.exponential}
    for name, each in shown.items():
        header += [each.title + PAPER, "ours"] if name in cited else [each.title]
    rows = []
    for part, arm in verdict.every_arm:
        length = verdict.scale.length(part)
        end = quantity.loss(*mean_and_deviation(arm.losses(length)))
        row = [part, arm.label, runs_of(verdict, part, arm), end]
        for name, each in shown.items():
            figure = verdict.paper_figure(part, arm.label, name)
            theirs = f"{figure.value:,g}{'*' * figure.recalled}" if figure else ""
            row += [theirs, ours(arm, length, each)] if name in cited else [ours(arm, length, each)]
        rows.append(row)
    lengths = {part: f"{verdict.scale.length(part):,}" for part in verdict.parts}
    alike = len(set(lengths.values())) == 1
    updates = lengths[verdict.parts[0]] if alike else ", ".join(f"{each} ({part})" for part, each in lengths.items())
    return Grid(f"The runs, at T = {updates} updates", header, rows)


def statements_grid(verdict: Verdict) -> Grid:
    """Make a line for each part and statement: what was claimed, what came out with its 95 % interval, the verdict."""
    speedups = any(each.statement.measure == "speedup" for each in verdict.findings)
    others = any(each.statement.measure != "speedup" for each in verdict.findings)
    columns = [*(AXES if speedups else []), *([""] if others else [])]
    rows = []
    for each in verdict.findings:
        cells = [estimate(verdict, each, axis) for axis in columns]
        head = [each.part or "across", each.statement.says, claimed(verdict, each.statement)]
        rows.append([*head, *cells, each.verdict])
    header = ["part", "statement", "claimed", *(TITLE.get(column, "measured") for column in columns), "verdict"]
    return Grid("The statements, with 95 % intervals; the first of each part decides", header, rows)


def others_grid(claim: Claim) -> Grid:
    """Make a line for each of others' findings; none where the claim's file knows of none."""
    header = ["what others measured", "where", "figure", "source"]
    return Grid("What others measured", header, [[o.says, o.where, number(claim, o), o.source] for o in claim.others])


def grids(verdict: Verdict) -> list[Grid]:
    """Make the tables of a claim's page; what others measured comes last, where there is any."""
    others = others_grid(verdict.claim)
    return [arms_grid(verdict), statements_grid(verdict), *([others] if others.rows else [])]


def overview(verdicts: Sequence[Verdict]) -> Grid:
    """Make a line for each claim, scale and part: the statement that decides, and what came of it."""
    rows = []
    for verdict in verdicts:
        for each in verdict.deciding:
            name = f"{verdict.claim.name}, {verdict.scale.name}"
            statement = f"{each.statement.says} ({claimed(verdict, each.statement)})"
            rows.append([name, each.part or "across", statement, came_out(verdict, each), each.verdict])
    return Grid("Claims, with 95 % intervals", ["claim, scale", "part", "claimed", "came out", "verdict"], rows)


def render(verdict: Verdict, form: str) -> str:
    """Write the tables as text of one of FORMATS; CSV has a line for each number, and nothing beside them."""
    if form == "csv":
        return comma_separated(Grid(verdict.claim.name, HEADER, numbers(verdict)))
    if form == "latex":
        remarks = [*(f"warning: {warning}" for warning in verdict.warnings), *summary(verdict), *notes(verdict)]
        return "\n".join([*(f"% {remark}" for remark in remarks), *map(latex, grids(verdict))])
    head = f"**{verdict.claim.name}, scale {verdict.scale.name}.** {verdict.claim.sentence} ({verdict.claim.source})"
    warnings = [f"- **warning: {warning}**" for warning in verdict.warnings]
    tail = [f"- {line}" for line in [*summary(verdict), *notes(verdict), again(verdict)]]
    parts = [head, *(["\n".join(warnings)] if warnings else []), *map(markdown, grids(verdict)), "\n".join(tail)]
    return "\n\n".join(parts) + "\n"
