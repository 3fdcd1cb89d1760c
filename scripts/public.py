"""Makes the tables of results/public from runs that other people published: numbers and checksums, never their files.

    python -m scripts.public scale wen2025.csv --name wen2025 --loss min_loss,baseline_loss --budget chinchilla
    python -m scripts.public study results/runs/track3 --name track3 --baseline '36 Muon' --slope .13 --slope-from '...'

`scale` takes a table with a row for each optimizer, size and budget, and gives the matched speed-up over the baseline
in tokens, its trend over sizes, and a projection to four times the largest. `study` takes what scripts.adopt wrote, and
gives final loss, length and seeds of each arm, and its speed-up. Expect NAME.md and NAME.csv; the same sources and
command give the same bytes. make public runs both.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from conventions import atomic
from conventions.paths import path_argument
from conventions.quantity import loss
from conventions.sentence import one_sentence
from judge.comparison import compare
from judge.readers.log import source_of
from judge.readers.table import read_table
from judge.records import find_runs
from judge.scale import FARTHEST, Figure, Trend, cells_of, figures, trend
from scripts.pages.grid import Grid, comma_separated, markdown
from scripts.speedup import add_declared, declared

RESULTS = Path("results/public")


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    with one_sentence():
        grids, sources = scale(options) if options.what == "scale" else study(options)
        short = [Path(each).name if Path(each).name == options.source.name else each for each in arguments]
        tell = f"`python -m scripts.public {shlex.join(short)}`, of what other people published:"
        about = [options.title or options.name, tell, "\n".join(f"- {each}" for each in sources)]
        page = [*about, *(f"{grid.title}\n\n{markdown(grid)}" for grid in grids)]
        atomic.write_text(RESULTS / f"{options.name}.md", "\n\n".join(page) + "\n")
        atomic.write_text(RESULTS / f"{options.name}.csv", "\n".join(comma_separated(grid) for grid in grids))
    print(f"{RESULTS / options.name}.md and .csv")


def scale(options: argparse.Namespace) -> tuple[list[Grid], list[str]]:
    """Return tables of size and budget, for each column of losses, and where they are from."""
    source, lines = source_of(options.source, "table"), read_table(options.source)
    grids: list[Grid] = []
    for column in options.loss.split(","):
        cells = list(cells_of(lines, {**vars(options), "loss": column}, options.source))
        speedups = figures(cells, options.baseline, declared(options).sigma)
        grids += [_by_budget(options, speedups, column), _trends(speedups, options.baseline, column)]
    place = f", {options.repository}" if options.repository else ""
    return grids, [f"{Path(source.path).name}{place}, sha256 {source.sha256}"]


def study(options: argparse.Namespace) -> tuple[list[Grid], list[str]]:
    """Return a table of an adopted study's arms, and where its runs are from."""
    runs = find_runs(options.source)
    comparison = compare(runs, options.baseline, options.target, declared(options))
    rule = "isoloss" if options.slope else "matched"
    ratios = {row.arm: row for row in comparison.rows if row.rule == rule and row.axis == "steps"}
    rows = []
    for each in comparison.standings:
        own = ratios.get(each.arm.label)
        ratio = [str(own.speedup), own.speedup.interval, own.verdict or ""] if own else ["", "", ""]
        length = f"{each.length:,}" if each.length else "none"
        rows.append([each.arm.label, length, str(each.seeds), loss(each.loss, each.spread), *ratio])
    files = {
        (Path(each["file"]).name, each["sha256"]): [run.known("origin", key) for key in ("repository", "commit")]
        for run in runs
        for each in run.known("origin", "sources") or ()
    }
    origins = [", ".join([name, *filter(None, where), f"sha256 {of}"]) for (name, of), where in sorted(files.items())]
    notes = dict.fromkeys(note for row in ratios.values() for note in row.notes if row.speedup.known)
    header = ["arm", "updates", "seeds", "final loss", f"{rule}, in updates", "95 % interval", "verdict"]
    return [Grid(f"Speed-up over {options.baseline}.", header, rows)], [*origins, *notes]


def _by_budget(options: argparse.Namespace, speedups: Sequence[Figure], column: str) -> Grid:
    """Make a table with rows of optimizer and size, and columns of budgets."""
    budgets = sorted({each.cell.budget for each in speedups}, key=lambda text: (len(text), text))
    rows: dict[tuple[str, float, str], dict[str, str]] = {}
    for each in speedups:
        cell = f"{each.speedup} ({each.speedup.interval})" if each.speedup.interval else str(each.speedup)
        rows.setdefault((each.cell.optimizer, each.cell.parameters, each.cell.size), {})[each.cell.budget] = cell
    body = [[name, size, *(own.get(budget, "") for budget in budgets)] for (name, _, size), own in sorted(rows.items())]
    title = f"Speed-up over {options.baseline} in tokens (matched), by size and {options.budget}; losses: {column}."
    return Grid(title, ["optimizer", "size", *budgets], body)


def _trends(speedups: Sequence[Figure], baseline: str, column: str) -> Grid:
    rows = []
    for name in sorted({each.cell.optimizer for each in speedups}):
        own = [each for each in speedups if each.cell.optimizer == name]
        line, finer = trend(own), trend(own, over_cells=True)
        if line and finer:
            last, ahead = line.at(line.largest), line.at(FARTHEST * line.largest)
            projections = [f"{each} ({each.interval})" for each in (last, ahead)]
            rows.append([name, str(line.points), _exponent(line), str(finer.points), _exponent(finer), *projections])
    header = ["optimizer", "sizes", "exponent q", "cells", "q over cells, if independent", "at the largest size"]
    title = f"ln (speed-up over {baseline}) = p + q ln (parameters), 95 % intervals over sizes; losses: {column}."
    return Grid(title, [*header, f"PROJECTION: at {FARTHEST} times that"], rows)


def _exponent(line: Trend) -> str:
    return f"{line.exponent:+.3f} ({line.interval[0]:+.3f} to {line.interval[1]:+.3f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.public", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("scale", "study"), help="what the source is")
    parser.add_argument("source", type=path_argument, help="a table of cells, or the folder of an adopted study")
    parser.add_argument("--name", required=True, help="of the files in results/public")
    parser.add_argument("--title", help="the first line of the page (default: the name)")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    parser.add_argument("--repository", help="where the source is from")
    parser.add_argument("--target", type=float, help="for a study: the loss that both arms were to reach")
    columns = {"optimizer": "optimizer", "size": "size", "parameters": "params_nonemb", "tokens": "tokens"}
    columns |= {"budget": "chinchilla", "loss": "min_loss"}
    for key, default in columns.items():
        parser.add_argument(f"--{key}", default=default, metavar="COLUMN", help=f"for scale (default: {default})")
    add_declared(parser)
    return parser


if __name__ == "__main__":
    main()
