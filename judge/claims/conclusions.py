"""Writes the page of conclusions: what each claim's paper says, what others measured and what was measured here."""

from collections import Counter
from collections.abc import Sequence

from conventions.grid import Grid, markdown
from conventions.quantity import TITLE
from judge.claims.cautions import cautions
from judge.claims.claim_file import SCALES
from judge.claims.evidence import PUBLIC
from judge.claims.others import beside, number, unit
from judge.claims.setting import by_claim, scale_name, settings
from judge.claims.tables import overview
from judge.claims.tokenizers import may_say
from judge.claims.verdict import Finding, Verdict
from judge.claims.words import OURS, RECALLED, came_out, claimed, others_lines
from judge.records import Run

WORDS = """\
A claim has a row for each of its statements that is tested in a part of its runs; the first of each part decides, and
is what is counted above. *Reproduced*: the whole 95 % interval is on the claim's side of its figure, less the tolerance
that was fixed beforehand. *Refuted*: all of it is on the other side, by the paper's own protocol. *Not seen at this
scale* and *not seen in these runs*: the same, by another protocol, which proves nothing about the paper's.
*Underpowered*: anything else. `>2`, and `…` for an end of an interval, lie beyond the lengths that were run; `?` is
not known."""

ORDER = ("reproduced", "refuted", "not seen at this scale", "not seen in these runs", "underpowered")


def page(verdicts: Sequence[Verdict]) -> str:
    """Write every claim's section below a summary. The tables that it names are to lie beside it."""
    public = [verdict for verdict in verdicts if verdict.public]
    lead = [markdown(overview(public))] if public else []
    parts = ["# Conclusions", *lead, summary(verdicts), WORDS]
    parts += [section(each, linked=True) for each in by_claim(verdicts)]
    return "\n\n".join(parts) + "\n"


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count the verdicts in words: all of them, then by scale."""
    claims = len(by_claim(verdicts))
    words = [(verdict.scale.name, word) for verdict in verdicts for word in verdict.words.values()]
    lines = [f"{claims} claim{'s' * (claims != 1)} with runs, {len(words)} verdict{'s' * (len(words) != 1)}:", ""]
    for scale in (PUBLIC, *SCALES):
        counts = Counter(word for name, word in words if name == scale)
        if counts:
            where = "in runs that others published" if scale == PUBLIC else f"at the scale {scale}"
            lines.append(f"- {where} {_counted(counts)}")
    return "\n".join(lines)


def section(verdicts: Sequence[Verdict], linked: bool = False) -> str:
    """Write what came of one claim, at its scales. linked: name the whole tables."""
    claim = verdicts[0].claim
    rows = [_row(verdict, finding) for verdict in verdicts for finding in verdict.findings]
    shown = set[str]()
    for row in rows:  # the same figures stand beside all statements about the same two arms
        row[2], known = ("as above" if row[2] in shown else row[2]), row[2]
        shown |= {known} - {""}
    header = ["scale", "claimed by the paper", "measured by others", "came out", "verdict"]
    parts = [f"## {claim.name.partition('.')[0]}", f"{claim.sentence} ({claim.source})"]
    parts += [markdown(Grid(claim.name, header, rows))] if rows else []
    ours = any(finding.statement.ours for verdict in verdicts for finding in verdict.findings)
    parts += [OURS] if ours else []
    for verdict in verdicts:
        parts += settings(verdict)
        runs = "public runs" if verdict.public else f"scale {scale_name(verdict)}"
        parts.append(f"What the {runs} can say: {may_say(verdict)}")
        table = f"{verdict.claim.name}-{verdict.scale.name}.md"
        lines = [f"Beware: {caution}" for caution in cautions(verdict)]
        lines += [f"Every statement, arm and note: [{table}]({table})"] if linked else []
        parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    if claim.others:
        recalled = [f"\n{RECALLED}"] if any(each.recalled for each in claim.others) else []
        lines = [f"- {line}" for line in others_lines(claim)]
        parts.append("\n".join(["What others measured:", "", *lines, *recalled]))
    return "\n\n".join(parts)


def _row(verdict: Verdict, finding: Finding) -> list[str]:
    statement = finding.statement
    others = [
        f"{number(verdict.claim, each)} ({', '.join(filter(None, (each.source, each.where)))})"
        for each in beside(verdict.claim, statement)
    ]
    return [
        scale_name(verdict) + (f", {finding.part}" if len(verdict.parts) > 1 and finding.part else ""),
        f"{statement.says} ({claimed(verdict, statement)})",
        "; ".join(others),
        _measured(verdict, finding),
        finding.verdict,
    ]


def _measured(verdict: Verdict, finding: Finding) -> str:
    """Write `1.52 (1.41 to 1.63) in steps, 3 seeds; 1.49 (1.38 to 1.6) in FLOPs`: on its own axis, then on others."""
    if not verdict.public and not _runs(verdict, finding):
        return "not run yet"
    seeds = finding.main.seeds
    own = f"{came_out(verdict, finding)}{unit(finding.statement)}, {seeds} seed{'s' * (seeds != 1)}"
    others = [axis for axis in finding.measured if axis not in ("", finding.statement.axis)]
    texts = {TITLE[axis]: came_out(verdict, finding, axis) for axis in others}
    return "; ".join([own, *(f"{text} in {title}" for title, text in texts.items() if text not in ("", "?"))])


def _runs(verdict: Verdict, finding: Finding) -> list[Run]:
    places = [name.rpartition("/") for name in finding.statement.arms]
    return [run for place, _, arm in places for run in verdict.arms[place or finding.part][arm].runs]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
