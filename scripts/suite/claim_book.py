"""What bench_suite's part claims keeps: rates, progress and failures after each sweep, verdicts at a call's end."""

from collections.abc import Mapping, Sequence
from typing import Any

from conventions.run_format import ENDED
from judge.claims.claim import Claim
from judge.claims.planned import Planned, find_planned
from judge.claims.verdict import Verdict, verify
from judge.records import Run
from scripts.pages.claim_table import as_json, render
from scripts.pages.conclusions import by_claim, section, summary
from scripts.study.sweep import RUNS
from scripts.suite import rates
from scripts.suite.claim_plan import Found, Plan
from scripts.suite.folder import Cell, Folder, figure, markdown

FILE, TABLE = "claims.json", "claims.md"
REST = "\n# Every verdict\n"  # in claims.md: what comes after it is long, and not printed
Runs = Mapping[str, Mapping[Planned, Run | None]]  # by claim


def read(plan: Plan, folder: Folder) -> dict[str, Any]:
    """What earlier calls left, without the failures of another commit: they may be mended."""
    held = folder.read(FILE, {"scale": plan.scale})
    book = {key: held.get(key, []) for key in ("rates", "rows", "failed")}
    failed = [row for row in book["failed"] if row["commit"] == commit(folder)]
    return {**book, "failed": failed, "starts": held.get("starts", {}), "verdicts": held.get("verdicts", {})}


def commit(folder: Folder) -> str | None:
    return folder.call.git["commit"] if folder.call else None


def runs_of(plan: Plan, claim: Claim) -> dict[Planned, Run | None]:
    """Every planned run of a claim, with what is there of it."""
    scale = claim.scale(plan.scale)
    return find_planned(claim, plan.scale, list(scale.parts), scale.seeds, RUNS)


def keep(plan: Plan, claims: Mapping[str, Found], runs: Runs, book: dict[str, Any], folder: Folder) -> None:
    """Everything but verdicts, which take their time: those of the last call stay."""
    verdicts = {row["claim"]: row["verdict"] for row in book["rows"]}
    book["rows"] = [_row(found.claim, runs[name], verdicts.get(name)) for name, found in claims.items()]
    folder.write(FILE, {"schema": 1, "identity": {"scale": plan.scale}, **book})


def conclude(plan: Plan, claims: Mapping[str, Found], runs: Runs, book: dict[str, Any], folder: Folder) -> None:
    """The same with each claim's verdict so far, and the tables of all."""
    verdicts: dict[str, Verdict] = {}
    none: dict[str, str] = {}
    text = ""
    for name, found in claims.items():
        claim, scale = found.claim, found.claim.scale(plan.scale)
        if not any(each and each.status in ENDED for each in runs[name].values()):
            continue
        try:
            verdicts[name] = verify(claim, plan.scale, list(scale.parts), scale.seeds, RUNS)
            text += f"\n## {name}\n\n{scale.may_say}\n\n{render(verdicts[name], 'markdown')}"
        except ValueError as error:
            none[name] = f"none: {error}"
    told = {name: "; ".join(f"{part or 'across'}: {w}" for part, w in v.words.items()) for name, v in verdicts.items()}
    book["rows"] = [{"claim": name, "verdict": {**none, **told}.get(name)} for name in claims]
    book["verdicts"] = {name: as_json(verdict) for name, verdict in verdicts.items()}
    keep(plan, claims, runs, book, folder)
    if verdicts:
        conclusions = [section(each) for each in by_claim(list(verdicts.values()))]
        text = "\n\n".join([REST + text, "# Conclusions", summary(list(verdicts.values())), *conclusions]) + "\n"
    short = f"{progress(book['rows'])}{left_out(book['failed'])}{rates.table(book['rates'])}"
    folder.write_table(TABLE, f"# Claims at the scale {plan.scale}\n\n{short}{text}")


def _row(claim: Claim, runs: Mapping[Planned, Run | None], verdict: str | None) -> dict[str, Any]:
    status = [each.status if each else None for each in runs.values()]
    return {
        "claim": claim.name.partition(".")[0], "file": str(claim.path), "runs": len(runs),
        "ended": sum(each in ENDED for each in status), "diverged": status.count("diverged"), "verdict": verdict,
    }  # fmt: skip


def progress(rows: Sequence[Mapping[str, Any]]) -> str:
    columns: dict[str, Cell] = {
        "claim": "claim", "runs": figure("runs"), "ended": figure("ended"), "diverged": figure("diverged"),
        "verdict so far": "verdict",
    }  # fmt: skip
    return markdown(columns, rows)


def left_out(failed: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; empty where nothing failed."""
    if not failed:
        return ""
    columns: dict[str, Cell] = {"run or trial": "name", "why": "error"}
    about = "What failed at this commit comes last in each call. An arm whose trials fail has no runs until they end."
    return f"\n## Failed\n\n{about}\n\n{markdown(columns, failed)}"
