"""Makes run folders of runs that somebody else trained, so that every program here judges them like our own.

    python -m scripts.adopt logs/ --study theirs --arm '(adamw|muon)' --seed 's(\\d+)' --plan    # only shows
    python -m scripts.adopt logs/ --study theirs --arm '(adamw|muon)' --seed 's(\\d+)'
    python -m scripts.adopt wandb:me/project --study mine --arm '{optimizer}' --map step=_step,val/loss=eval/loss
    python -m scripts.adopt curves.csv --study t --map run=run,step=step,val/loss=loss,seconds=train_s --arm '(\\w+)-'

A SOURCE is a file, a folder, or wandb:ENTITY/PROJECT[/RUN]: W&B's offline files and exported CSV, TensorBoard event
files, trainer_state.json, MLflow, AlgoPerf's measurements, what nanoGPT, llm.c, nanochat, torchtitan, LitGPT and
modded-nanogpt print, and any CSV, JSON lines or parquet. A PATTERN is `=text`, a text with {facts} (the run's config
keys, name, file, stem, folder and what --about adds), or a regular expression searched in the run's name. Expect
results/runs/STUDY/, and a table that says of each run what was odd.
"""

from collections.abc import Sequence

from rich.console import Console

from conventions.grid import Grid
from conventions.paths import expanded
from conventions.quantity import loss, seconds
from conventions.run_format import RUNS
from conventions.sentence import Arguments, cut_short, one_sentence
from conventions.terminal_table import console, terminal_table
from judge.readers import read
from judge.readers.adoption import Adopted, Wish, adopt, described, write
from judge.readers.log import Source
from judge.readers.remarks import remarks
from judge.readers.series import runs_in, without_repeats
from judge.readers.units import QUANTITIES, meaning_of, parse_map


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with one_sentence():
        chosen = parse_map(options.map)
        wish = Wish(
            study=options.study, arm=options.arm, seed=options.seed, at=options.at,
            settings=_pairs(options.set, "--set"), where=_pairs(options.where, "--where"),
            device=options.device, weights=options.weights, repository=options.repository, commit=options.commit,
        )  # fmt: skip
        runs = []
        for source in options.source:
            for log in read(source):
                meaning = meaning_of(log, chosen, options.bytes_per_token)
                runs += runs_in(log, meaning, options.bytes_per_token)
        runs, repeats = without_repeats(runs)
        about: list[dict[str, str]] = []
        sources: list[Source] = []
        if options.about:
            table, colon, column = options.about.rpartition(":")
            if not colon or not table:
                raise ValueError(f"--about {options.about}: give TABLE:COLUMN, the column that holds the runs' names")
            about, source = described(runs, expanded(table, "--about"), column)
            sources.append(source)
        adopted, left = adopt(runs, wish, about, sources)
        with cut_short():
            show(adopted, [*repeats, *left], console())
        if not options.plan:
            folder = RUNS / options.study
            new = write(adopted, folder)
            print(f"{len(adopted)} runs in {folder}, {new} of them new; next: python -m scripts.speedup {folder}")


def show(adopted: Sequence[Adopted], left: Sequence[tuple[str, str]], console: Console) -> None:
    """Print a line for each run, then what is odd, each sentence once with the runs that it is about."""
    rows = []
    for each in adopted:
        last = each.run.evaluations[-1]
        end = loss(each.loss) if each.status == "finished" else f"{each.status} at {each.run.last:,}"
        time = seconds(last["seconds/total"]) if "seconds/total" in last else "unknown"
        rows.append([each.run.name, each.arm, each.run.source.format, str(each.seed), f"{each.steps:,}",
                     str(len(each.run.evaluations)), end, time])  # fmt: skip
    header = ["run", "arm", "format", "seed", "updates", "evaluations", "final loss", "seconds"]
    console.print(terminal_table(Grid("", header, rows), ("arm", "format")))
    for remark in remarks(adopted, left):
        console.print(remark, style="dim" if remark.startswith("- ") else "", highlight=False, markup=False)


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise ValueError(f"{option} {text}: give KEY=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _parser() -> Arguments:
    parser = Arguments.of("scripts.adopt", __doc__, whole=True)
    parser.add_argument("source", nargs="+", help="a file, a folder, or wandb:ENTITY/PROJECT[/RUN]")
    parser.add_argument("--study", required=True, help="the folder below results/runs to make")
    parser.add_argument("--arm", required=True, metavar="PATTERN", help="which arm a run belongs to")
    parser.add_argument("--seed", metavar="PATTERN", help="its seed (default: unknown, numbered in order)")
    mapped = f"what columns mean, QUANTITY=COLUMN,...: {', '.join(QUANTITIES)}; `elapsed` is seconds with evaluation"
    parser.add_argument("--map", action="append", default=[], metavar="PAIRS", help=mapped)
    parser.add_argument("--bytes-per-token", type=float, help="turns bits per byte into nats per token")
    parser.add_argument("--at", metavar="STEP", help="take each run at a step, a {fact} or `last`")
    parser.add_argument("--about", metavar="TABLE:COLUMN", help="facts on runs: the table's row with the run's name")
    parser.add_argument("--where", action="append", default=[], metavar="FACT=VALUE", help="take these runs only")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a known key of the config")
    parser.add_argument("--device", help="what they ran on, a text with {facts}: else no verdict in seconds")
    parser.add_argument("--weights", help="what the last losses are of, if not the trained weights: 'averaged'")
    parser.add_argument("--repository", help="where the sources are from")
    parser.add_argument("--commit", help="and their commit")
    parser.add_argument("--plan", action="store_true", help="show the table, and write nothing")
    return parser


if __name__ == "__main__":
    main()
