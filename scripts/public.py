"""Makes the tables of results/public from runs that other people published: numbers and checksums, never their files.

    python -m scripts.public collect track3 ../modded-nanogpt      # a study of configs/public, from a checkout
    python -m scripts.public scale sweep.csv --name theirs --loss min_loss,baseline_loss
    python -m scripts.public scale results/runs/sizes --name sizes --baseline adamw
    python -m scripts.public study results/runs/theirs --name theirs --baseline muon --slope .13 --slope-from '...'

`collect` writes NAME.csv, final losses by arm, size and length; `make tables` makes the page of it. `scale` takes a
table with a row for each optimizer, size and budget, or a folder of runs of several models: it gives the matched
speed-up in tokens, its trend over sizes, a projection to four times the largest, and figures. `study` takes what
scripts.adopt wrote, and gives each arm's final loss, length, seeds and speed-up. The same sources and command give the
same bytes. make public collects every study of configs/public.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from conventions import atomic
from conventions.grid import Grid, comma_separated
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from judge.comparison import compare
from judge.public.cell import write_cells
from judge.public.collect import collect
from judge.public.page import page
from judge.public.runs import adopted_tables, cells_by_column
from judge.public.study import read_study
from judge.public.tables import scale_tables
from judge.records import find_runs
from judge.scale import figures
from scripts.pages.size_figures import size_figures
from scripts.speedup import add_declared, declared

RESULTS = Path("results/public")


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    with one_sentence():
        if options.what == "collect":
            cells, remarks = collect(read_study(options.name), options.source)
            atomic.write_text(RESULTS / f"{options.name}.csv", write_cells(cells))
            print("\n".join([*remarks, f"{RESULTS / options.name}.csv; next: make tables"]))
            return
        if options.what == "scale":
            grids, sources, drawn = scale(options)
        else:
            runs = find_runs(options.source)
            grids, sources = adopted_tables(compare(runs, options.baseline, options.target, declared(options)))
            drawn = []
        short = [Path(each).name if Path(each).name == options.source.name else each for each in arguments]
        tell = f"`python -m scripts.public {shlex.join(short)}` makes this page of:"
        about = [options.title or options.name, tell, "\n".join(f"- {each}" for each in sources), *drawn]
        atomic.write_text(RESULTS / f"{options.name}.md", page(about, grids))
        table = "\n".join(comma_separated(grid) for grid in grids)
        atomic.write_text(RESULTS / f"{options.name}.csv", table)
    print(f"{RESULTS / options.name}.md and .csv")


def scale(options: argparse.Namespace) -> tuple[list[Grid], list[str], list[str]]:
    """Draw figures; return tables of size and budget for each column of losses, their source and the figures' links."""
    columns, place = cells_by_column(options.source, vars(options))
    tables: list[Grid] = []
    drawn: list[str] = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for column, cells in columns.items():
        speedups = figures(cells, options.baseline, declared(options))
        tables += scale_tables(speedups, options.baseline, options.budget, f"losses: {column}")
        for drawing in size_figures(speedups, options.baseline) if column == next(iter(columns)) else []:
            file = f"{options.name}-{drawing.name}.svg"
            drawing.save(RESULTS / file)
            drawn.append(f"![{drawing.title}]({file})")
    return tables, [place], drawn


def _parser() -> Arguments:
    parser = Arguments.of("scripts.public", __doc__, whole=True)
    commands = parser.add_subparsers(dest="what", required=True, metavar="collect, scale or study")
    make = commands.add_parser("collect", help="the table of a study of configs/public")
    make.add_argument("name", help="of a file in configs/public")
    make.add_argument("source", type=path_argument, help="a checkout of its repository")
    for what, source in {"scale": "a table of cells, or runs", "study": "the folder of an adopted study"}.items():
        command = commands.add_parser(what, help=source)
        command.add_argument("source", type=path_argument, help=source)
        command.add_argument("--name", required=True, help="of the files in results/public")
        command.add_argument("--title", help="the first line of the page (default: the name)")
        command.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
        command.add_argument("--repository", help="where the source is from")
        command.add_argument("--target", type=float, help="for a study: the loss that both arms were to reach")
        columns = {"optimizer": "optimizer", "size": "size", "parameters": "params_nonemb", "tokens": "tokens"}
        columns |= {"budget": "chinchilla", "loss": "min_loss"}
        for key, default in columns.items():
            command.add_argument(f"--{key}", default=default, metavar="COLUMN", help=f"for scale (default: {default})")
        add_declared(command)
    return parser


if __name__ == "__main__":
    main()
