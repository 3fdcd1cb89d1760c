"""A page of conclusions: of each claim what its paper says, what others measured and what was measured here."""

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.claims.claim_file import SCALES
from harness.claims.verdict import Finding, Verdict
from harness.compare.timing import device_of, untimed
from scripts.pages.claim_table import OURS, RECALLED, came_out, claimed
from scripts.pages.grid import Grid, markdown
from scripts.pages.others import beside, number, others_lines, unit

WORDS = """\
A verdict is of the first statement of a claim that is tested in a part of its runs. *Reproduced*: the whole 95 %
interval is on the claim's side of its figure, less the tolerance that was fixed beforehand. *Refuted*: all of it is on
the other side, by the paper's own protocol. *Not seen at this scale*: the same, by another protocol, which proves
nothing about the paper's. *Underpowered*: anything else. `>2`, and `…` for an end of an interval, lie beyond the
lengths that were run; `?` is not known."""

ORDER = ("reproduced", "refuted", "not seen at this scale", "underpowered")
UNEQUAL = "unequal tuning: "  # as verdict.warnings have it


def page(verdicts: Sequence[Verdict]) -> str:
    """Every claim's section, below a summary. The tables that it names are to lie beside it."""
    parts = ["# Conclusions", summary(verdicts), WORDS, *(section(each, linked=True) for each in by_claim(verdicts))]
    return "\n\n".join(parts) + "\n"


def by_claim(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Those on the same sentence together, the largest scale first: one claim may have files of several devices."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for each in sorted(verdicts, key=lambda each: SCALES.index(each.scale.name)):
        found.setdefault((each.claim.sentence, each.claim.source), []).append(each)
    return sorted(found.values(), key=lambda each: each[0].claim.name)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Counts in words: of all, then by scale."""
    claims = len(by_claim(verdicts))
    words = [(verdict.scale.name, word) for verdict in verdicts for word in verdict.words.values()]
    lines = [f"{claims} claim{'s' * (claims != 1)} with runs, {len(words)} verdict{'s' * (len(words) != 1)}:", ""]
    for scale in SCALES:
        counts = Counter(word for name, word in words if name == scale)
        if counts:
            lines.append(f"- at the scale {scale} {_counted(counts)}")
    return "\n".join(lines)


def section(verdicts: Sequence[Verdict], linked: bool = False) -> str:
    """What came of one claim, at its scales. linked: name the whole tables."""
    claim = verdicts[0].claim
    rows = [_row(verdict, finding) for verdict in verdicts for finding in verdict.deciding]
    header = ["scale", "claimed by the paper", "measured by others", "measured here", "verdict"]
    parts = [f"## {claim.name.partition('.')[0]}", f"{claim.sentence} ({claim.source})"]
    parts += [markdown(Grid(claim.name, header, rows))] if rows else []
    ours = any(finding.statement.ours for verdict in verdicts for finding in verdict.deciding)
    parts += [OURS] if ours else []
    for verdict in verdicts:
        parts.append(f"What the scale {_scale(verdict)} can say: {verdict.scale.may_say.strip()}")
        table = f"{verdict.claim.name}-{verdict.scale.name}.md"
        lines = [*_rest(verdict), *(f"Beware: {caution}" for caution in cautions(verdict))]
        lines += [f"Every statement, arm and note: [{table}]({table})"] if linked else []
        parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    if claim.others:
        recalled = [f"\n{RECALLED}"] if any(each.recalled for each in claim.others) else []
        lines = [f"- {line}" for line in others_lines(claim)]
        parts.append("\n".join(["What others measured:", "", *lines, *recalled]))
    return "\n\n".join(parts)


def cautions(verdict: Verdict) -> list[str]:
    """What weakens the verdicts: what differs, what was not tuned, what is missing, seconds that nobody vouches for."""
    runs = [run for _, arm in verdict.every_arm for run in arm.runs]
    found = [warning for warning in verdict.warnings if not warning.startswith(UNEQUAL)]
    if unequal := [warning.removeprefix(UNEQUAL) for warning in verdict.warnings if warning not in found]:
        found.append(UNEQUAL + "; ".join(unequal))
    for each in verdict.deciding:
        names = dict.fromkeys(name.rpartition("/")[2] for name in each.statement.arms)
        if not any(verdict.scale.arms[name].trials for name in names):
            found.append(f"not tuned here: {', '.join(names)}")
        found += each.main.notes
    if verdict.missing:
        found.append(f"{len(verdict.missing)} of {len(verdict.missing) + len(runs)} planned runs are not there")
    if lost := Counter(arm.label for _, arm in verdict.every_arm for run in arm.runs if run.status == "diverged"):
        found.append(f"diverged: {', '.join(f'{count} of {label}' for label, count in lost.items())}")
    if reason := untimed([run for run in runs if run.final_loss is not None]):
        found.append(reason)
    return list(dict.fromkeys(found))


def _row(verdict: Verdict, finding: Finding) -> list[str]:
    statement = finding.statement
    others = [
        f"{number(verdict.claim, each)} ({', '.join(filter(None, (each.source, each.where)))})"
        for each in beside(verdict.claim, statement)
    ]
    return [
        _scale(verdict) + (f", {finding.part}" if len(verdict.parts) > 1 and finding.part else ""),
        f"{statement.says} ({claimed(verdict, statement)})",
        "; ".join(others),
        f"{came_out(verdict, finding)}{unit(statement)}: {_setting(verdict, finding)}",
        finding.verdict,
    ]


def _scale(verdict: Verdict) -> str:
    """`small`, or `small (rates)` of the file <claim>.rates.yaml: bench_suite names its own so."""
    _, _, word = verdict.claim.name.partition(".")
    return verdict.scale.name + f" ({word})" * bool(word)


def _setting(verdict: Verdict, finding: Finding) -> str:
    """On which model, corpus and device, over how many updates and seeds."""
    arms = [(place or finding.part, arm) for place, _, arm in (name.rpartition("/") for name in finding.statement.arms)]
    runs = [run for place, arm in arms for run in verdict.arms[place][arm].runs]
    if not runs:
        return "not run yet"
    models = _listed(str(run.config["model"]["name"]) for run in runs)
    data = _listed(str(run.known("data", "name")) for run in runs)
    lengths = _listed(f"{verdict.scale.length(place):,}" for place, _ in arms)
    batches = _listed(f"{run.config['batch']['tokens']:,}" for run in runs)
    devices, seeds = _listed(device_of(run) for run in runs), finding.main.seeds
    seeds_told = f"{seeds} seed{'s' * (seeds != 1)}"
    return f"{models} on {data}, {lengths} updates of {batches} tokens, {devices}, {seeds_told}"


def _rest(verdict: Verdict) -> list[str]:
    """What came of the statements that decide nothing, counted."""
    others = Counter(each.verdict for each in verdict.findings if each not in verdict.deciding)
    return [f"Its other statements: {_counted(others)}"] if others else []


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])


def _listed(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))
