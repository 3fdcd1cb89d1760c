"""The verdict on a claim, by the rule that its file fixed beforehand, from run folders alone.

reproduced               the whole 95 % interval is on the claim's side of s (1 - d)
refuted                  the whole interval is on the other side, by the paper's own protocol
not seen at this scale   the same, by another: smaller models prove nothing about larger ones, nor ours about theirs
not seen in these runs   the same, in runs that others published, of whatever scale
underpowered             anything else: the interval holds s (1 - d), or there is none, for want of seeds, for a
                         divergence, for runs that are too small, for seconds that nobody can vouch for
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from judge.arms import Arm, refuse_incomparable
from judge.claims.claim import Claim, PaperFigure, PlanCell, Quantity, Scale
from judge.claims.evidence import Shown
from judge.claims.measure import Measured, Trained, measure, values
from judge.claims.plan import StudyPlan, apart, read_plan, read_studies, settled, sort_runs
from judge.claims.statement import Statement
from judge.downstream import PREFIX
from judge.estimate import Speedup
from judge.fairness import UNEQUAL_TUNING, endings, provenance, unlike
from judge.records import Run
from judge.timing import untimed

EXACT = 1e-9


@dataclass(frozen=True)
class Finding:
    """The result of one statement, in one part or ("") across parts."""

    statement: Statement
    part: str
    measured: dict[str, Measured]  # by axis; a quantity's under ""
    verdict: str

    @property
    def main(self) -> Measured:
        """Return the number on the axis that decides."""
        return self.measured.get("") or self.measured[self.statement.axis]


@dataclass(frozen=True)
class Verdict:
    """Everything that a table says about a claim at a scale."""

    claim: Claim
    scale: Scale
    parts: list[str]
    arms: dict[str, dict[str, Arm]]  # by part and name
    missing: list[PlanCell]
    findings: list[Finding]
    warnings: list[str]  # what makes a comparison unfair: to be read first
    footnotes: list[str]
    public: Sequence[Shown] = ()  # the cells of public runs (judge/claims/public.py); then arms are empty

    @property
    def deciding(self) -> list[Finding]:
        """Return the findings on the first statement that is tested in each part, or across parts."""
        first: dict[str, Finding] = {}
        for each in self.findings:
            first.setdefault(each.part, each)
        decided = self.findings[0].part if self.findings else ""
        return [each for part, each in first.items() if bool(part) == bool(decided)]

    @property
    def words(self) -> dict[str, str]:
        """Return the verdict of each part, or ("") across parts."""
        return {each.part: each.verdict for each in self.deciding}

    @property
    def every_arm(self) -> list[tuple[str, Arm]]:
        """Return every pair (part, arm), as the claim's file orders them."""
        return [(part, arm) for part in self.parts for arm in self.arms[part].values()]

    @property
    def quantities(self) -> dict[str, Quantity]:
        """Return the claim's quantities by name, but for downstream scores that no arm's runs have at this scale."""
        lengths = {part: self.scale.length(part) for part in self.parts}
        return {
            name: each
            for name, each in self.claim.quantities.items()
            if not each.metric.startswith(PREFIX)
            or any(values(each, arm.finished(lengths[part])) is not None for part, arm in self.every_arm)
        }

    def paper_figure(self, part: str, arm: str, quantity: str) -> PaperFigure | None:
        """Return the paper's number for that arm: of the part that ours stands beside."""
        beside = self.scale.parts[part].beside or part
        same = [each for each in self.claim.figures if (each.part, each.arm, each.quantity) == (beside, arm, quantity)]
        return same[0] if same else None

    @property
    def notes(self) -> list[str]:
        """Return the notes on the figures, then those on the runs; none twice."""
        shown = [note for each in self.findings for measured in each.measured.values() for note in measured.notes]
        return list(dict.fromkeys([*shown, *self.footnotes]))


def verify(claim: Claim, scale_name: str, parts: Sequence[str], seeds: Sequence[int], folder: Path) -> Verdict:
    """Return the verdict on a claim by the runs below `folder`; parts and seeds are those of its file, or some of them.

    Raises ValueError if no run of it is there, if a study has no plan, or if a part's runs trained or evaluated on
    different tokens.
    """
    studies = read_studies(claim, scale_name, parts, folder)
    if not any(studies.values()):
        raise ValueError(
            f"{folder} holds no run of {claim.name} at the scale {scale_name} ({claim.study(scale_name, parts[0])}): "
            f"python -m scripts.claims run {claim.word} --scale {scale_name}"
        )
    plans = {part: read_plan(claim, scale_name, part, folder) for part in parts if studies[part]}
    scale = settled(claim.scale(scale_name), plans)
    arms: dict[str, dict[str, Arm]] = {}
    strays: list[str] = []
    for part in parts:
        arms[part] = {name: Arm(name, {}, [], name) for name in scale.arms_of(part)}
        if part in plans:
            arms[part], left_out = sort_runs(plans[part], scale, seeds, studies[part])
            strays += left_out
        refuse_incomparable([run for arm in arms[part].values() for run in arm.runs])

    findings = [
        _find(claim, scale, statement, part, arms)
        for statement in claim.statements
        for part in claim.tested_in(statement, parts)
    ]
    runs = [run for part in arms.values() for arm in part.values() for run in arm.runs]
    there = {
        PlanCell(part, arm, run.steps, run.seed) for part in arms for arm in arms[part] for run in arms[part][arm].runs
    }
    missing = [cell for cell in scale.cells(parts, seeds) if cell not in there]
    warnings, by_design = _unfair(scale, plans, findings, arms)
    footnotes = [*by_design, *_missing(missing), *endings(runs), *strays, *_hardware(claim, runs), *provenance(runs)]
    footnotes += [f"{name}: {arm.note}" for name, arm in scale.arms.items() if arm.note]
    return Verdict(claim, scale, list(parts), arms, missing, findings, warnings, footnotes)


def judge(
    statement: Statement, estimate: Speedup, decides: bool, papers_own: bool, otherwise: str = "not seen at this scale"
) -> str:
    """Return one of the verdicts listed above. An open end of an interval lies beyond whatever it is held against.

    otherwise: the word where the whole interval is on the other side, in runs that are not the paper's own.
    """
    low, high, threshold = estimate.low, estimate.high, statement.threshold
    rounding = EXACT * abs(threshold)  # FLOPs are counts: their ratio can be the figure itself
    if statement.at_least is not None:
        line = threshold - rounding
        holds, fails = low is not None and low >= line, high is not None and high < line
    else:
        line = threshold + rounding
        holds, fails = high is not None and high <= line, low is not None and low > line
    if decides and holds:
        return "reproduced"
    if decides and fails:
        return "refuted" if papers_own else otherwise
    return "underpowered"


def _find(claim: Claim, scale: Scale, statement: Statement, part: str, arms: dict[str, dict[str, Arm]]) -> Finding:
    quantity = claim.quantities[statement.quantity] if statement.quantity else None

    def trained(name: str) -> Trained:
        place, _, arm = name.rpartition("/")
        return Trained(arms[place or part][arm], scale.length(place or part))

    pairs = [(trained(arm), trained(against) if against else None) for arm, against in statement.pairs]
    measured, *other = [measure(statement, quantity, *pair, not scale.papers_own) for pair in pairs]
    if other:
        subtracts = statement.measure == "difference"
        measured = {axis: each.than(other[0][axis], subtracts) for axis, each in measured.items()}
    finding = Finding(statement, part, measured, "")
    return replace(finding, verdict=judge(statement, finding.main.estimate, finding.main.decides, scale.papers_own))


def _unfair(
    scale: Scale, plans: Mapping[str, StudyPlan], findings: Sequence[Finding], arms: dict[str, dict[str, Arm]]
) -> tuple[list[str], list[str]]:
    """Return sentences on what differs between compared arms: what should not, and what the parts are there for."""
    warnings, by_design = [], []
    for part, (name, base) in dict.fromkeys((each.part, pair) for each in findings for pair in each.statement.pairs):
        (place, _, arm), (other, _, against) = name.rpartition("/"), base.rpartition("/")
        place, other = place or part, other or part
        if not base or not arms[place][arm].runs or not arms[other][against].runs:
            continue
        differing = unlike(arms[other][against], arms[place][arm], scale.length(other), scale.length(place))
        if place != other:
            meant = apart(plans[place].arms[arm].config or {}, plans[other].arms[against].config or {})
            differing = {key: pair for key, pair in differing.items() if key not in meant}
            by_design.append(f"{name} and {base} are compared across parts, which differ in {', '.join(meant)}")
        where = f"{part}: " if part and len(arms) > 1 else ""
        warnings += [f"{where}{key} differs: {theirs} for {base}, {ours} for {name}"
                     for key, (theirs, ours) in differing.items()]  # fmt: skip
        trials = scale.arms[against].trials, scale.arms[arm].trials
        if trials[0] != trials[1]:
            warnings.append(f"{UNEQUAL_TUNING}{against} is the best of {trials[0]} trials, {arm} of {trials[1]}")
    return list(dict.fromkeys(warnings)), list(dict.fromkeys(by_design))


def _missing(missing: Sequence[PlanCell]) -> Iterator[str]:
    seeds: dict[tuple[str, str, int], list[str]] = {}
    for each in missing:
        seeds.setdefault((each.part, each.arm, each.steps), []).append(str(each.seed))
    lengths: dict[tuple[str, str, str], list[str]] = {}
    for (part, arm, steps), each_seed in seeds.items():
        which = f"seed{'s' * (len(each_seed) > 1)} {', '.join(each_seed)}"
        lengths.setdefault((part, arm, which), []).append(f"{steps:,}")
    for (part, arm, which), updates in lengths.items():
        yield f"not run yet: {arm} ({part}) for {' and '.join(updates)} updates, {which}"


def _hardware(claim: Claim, runs: Sequence[Run]) -> Iterator[str]:
    finished = [run for run in runs if run.final_loss is not None]
    timed = [each.metric for each in claim.quantities.values() if each.metric.startswith("seconds/")]
    speedups = [each for each in claim.statements if each.measure == "speedup"]  # these are shown in seconds too
    if finished and (timed or speedups) and (reason := untimed(finished)):
        yield reason
