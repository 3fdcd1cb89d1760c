"""Writes every table under results/, in README.md and in docs/ from the committed run folders: `make tables`.

    python -m scripts.make_tables           # writes those that differ, and names them
    python -m scripts.make_tables --check   # writes nothing; exit code 2 if one differs or is of no runs

- A device's tables are results/hardware/<device>/table.md, from what scripts.bench measured there;
  results/hardware/summary.md has the figures of all devices for docs/gpu.md.
- A study's table is results/<study>/table.md. The table of a tuning is there too, and lists its trials.
- A claim's tables are results/claims/<claim>-<scale>.md, .tex and .csv; they come from the studies
  results/<claim>-<scale>-<part>. The claim's file is in configs/claim, or in results/claims (<claim>.<word>.yaml).
  results/claims/verdicts.md has a line on each claim; conclusions.md adds what the papers and others found.
- The page and the figures of each study in configs/public are in results/public. scripts/board.py draws the board.
- In README and docs/ a table stands between two comments, `<!-- results/<study>/table.md -->` and `<!-- end -->`; with
  `, 12 lines` after its name, only its first 12 lines.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from conventions.config_keys import CONFIGS
from conventions.grid import markdown
from conventions.sentence import Arguments, one_sentence
from judge import race
from judge.claims.claim import CLAIMS
from judge.claims.claim_file import SCALES, list_claims, read_claim, with_others
from judge.claims.conclusions import page
from judge.claims.evidence import PUBLIC
from judge.claims.public import verify_public
from judge.claims.tables import overview, render
from judge.claims.verdict import Verdict, verify
from judge.comparison import compare
from judge.comparison_tables import speedups_grid, standings_grid
from judge.hardware import HARDWARE, hardware_tables, summary
from judge.measurements import FILE
from judge.public.page import study_page
from judge.public.study import list_studies
from judge.publication import UNKEPT
from judge.records import find_runs, has_runs
from judge.tuning.table import tuning_table
from judge.tuning.trials import SUFFIX, tuning_of, with_tuning
from scripts.board import board_texts
from scripts.pages.size_figures import study_figures

ROOT = CONFIGS.parent
FORMS = {"md": "markdown", "tex": "latex", "csv": "csv"}
BLOCK = re.compile(r"<!-- (results/\S+\.md)(?:, (\d+) lines)? -->\n.*?<!-- end -->", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.make_tables", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a table is not up to date")
    options = parser.parse_args(arguments)
    with one_sentence():
        texts = tables(ROOT)
        stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
        if options.check and stale:
            raise ValueError(f"{stale[0].relative_to(ROOT)} is not what its runs say: make tables writes it anew")
        for path in _orphans(ROOT, texts):
            sentence = f"{path.relative_to(ROOT)} is a table of runs that are not there: delete it, or bring them back"
            if options.check:
                raise ValueError(sentence)
            print(sentence)
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path])
            print(path.relative_to(ROOT))


def tables(root: Path) -> dict[Path, str]:
    """Return every table below `root`, as its runs make it, and last the pages that show some of them."""
    results = root / "results"
    texts, claimed = claim_tables(results)
    for study in sorted(path for path in results.iterdir() if path.is_dir() and path.name not in claimed):
        if published(study) and has_runs(study):
            texts[study / "table.md"] = (tuning_table if study.name.endswith(SUFFIX) else study_table)(study)
    for public in list_studies() if (results / PUBLIC).is_dir() else []:
        drawings = study_figures(public)
        texts[results / PUBLIC / f"{public.name}.md"] = study_page(public, {n: d.title for n, d in drawings.items()})
        texts |= {results / PUBLIC / name: drawing.file("svg").decode() for name, drawing in drawings.items()}
    if (results / PUBLIC).is_dir():
        texts |= board_texts(root)
    if (results / HARDWARE).is_dir():
        devices = sorted(path.parent for path in (results / HARDWARE).glob(f"*/{FILE}"))
        texts |= {place / "table.md": hardware_tables(place) for place in devices}
        texts[results / HARDWARE / "summary.md"] = summary(devices)
    pages = {path: path.read_text(encoding="utf-8") for path in (root / "README.md", *(root / "docs").glob("*.md"))}
    return texts | {path: with_tables(text, path, root, texts) for path, text in pages.items() if BLOCK.search(text)}


def _orphans(root: Path, texts: Mapping[Path, str]) -> list[Path]:
    """Return files where tables are written, of which none is made any more."""
    results = root / "results"
    there = [path for ending in FORMS for path in results.glob(f"claims/*.{ending}")]
    there += [path for path in results.glob("*/table.md") if published(path.parent)]
    return sorted(path for path in there if path not in texts)


def claim_tables(results: Path) -> tuple[dict[Path, str], set[str]]:
    """Make the tables of the claims that have runs, and name the studies that hold these runs."""
    texts: dict[Path, str] = {}
    claimed, verdicts = set[str](), list[Verdict]()
    own = [with_others(read_claim(path)) for path in sorted((results / "claims").glob("*.yaml"))]
    if (results / PUBLIC).is_dir():
        verdicts += [verify_public(claim) for claim in list_claims() if claim.public]
    for claim in [*list_claims(), *own]:
        for scale in (name for name in SCALES if name in claim.scales):
            parts = [part for part in claim.scale(scale).parts if has_runs(results / claim.study(scale, part))]
            claimed |= {claim.study(scale, part) for part in parts}
            if parts:
                verdict = verify(claim, scale, parts, claim.scale(scale).seeds, results)
                verdicts.append(verdict)
    for verdict in verdicts:
        name = f"{verdict.claim.name}-{verdict.scale.name}"
        texts |= {results / "claims" / f"{name}.{ending}": render(verdict, form) for ending, form in FORMS.items()}
    if verdicts:
        texts[results / "claims" / "verdicts.md"] = markdown(overview(verdicts)) + "\n"
        texts[results / "claims" / "conclusions.md"] = page(verdicts)
    return texts, claimed


def published(study: Path) -> bool:
    return study.name not in (*UNKEPT, HARDWARE) and not study.name.startswith(".")


def with_tables(text: str, path: Path, root: Path, texts: Mapping[Path, str]) -> str:
    """Return a page with the tables that its comments ask for. Raises ValueError where no study makes one of them."""

    def block(match: re.Match[str]) -> str:
        name, here = match[1], path.relative_to(root)
        if root / name not in texts:
            raise ValueError(f"{here} wants {name}, which no study makes: publish its runs, or take the block away")
        lines = texts[root / name].splitlines(keepends=True)
        head, part = ("", lines) if match[2] is None else (f", {match[2]} lines", lines[: int(match[2])])
        return f"<!-- {name}{head} -->\n{''.join(part)}<!-- end -->"

    return BLOCK.sub(block, text)


def study_table(study: Path, baseline: str = "adamw") -> str:
    """Write the standings, and the speed-ups where there are any, in Markdown."""
    name, dot, _ = study.name.partition(".")
    if dot and (CLAIMS / f"{name}.yaml").is_file():
        raise ValueError(
            f"{study} has runs of a claim whose file is not there: keep {study.name.partition('-')[0]}.yaml in "
            "results/claims"
        )
    runs = find_runs(study)
    if all(run.optimizer != baseline for run in runs):
        raise ValueError(
            f"{study} has no run of {baseline} and is of no claim: keep the file of its claim in configs/claim or in "
            "results/claims"
        )
    comparison = with_tuning(compare(runs, baseline), tuning_of(study))
    parts = ["\n".join(f"- **warning: {warning}**" for warning in comparison.warnings)]
    racing = race.is_race(comparison)
    grids = [standings_grid(comparison), *([] if racing else [speedups_grid(comparison)])]
    parts += [f"{grid.title}\n\n{markdown(grid)}" for grid in grids if grid.rows]
    parts += [race.leader(comparison), race.verdict_takes(comparison)] if racing else []
    parts += ["\n".join(f"- {note}" for note in (race.notes(comparison) if racing else comparison.notes))]
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    main()
