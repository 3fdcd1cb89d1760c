"""Lists runs: how far each is, its last loss, and how long it still takes.

    python -m scripts.runs                        # results/runs
    python -m scripts.runs results/runs/my_study
    python -m scripts.runs results/runs/my_study --watch    # live, until Ctrl-C; lines where there is no terminal

`cut` is a run that was killed and can go on with resume=true. The time left comes from the run's own pace, with its
evaluations and checkpoints in it; the seconds are training time alone, as the comparisons count it.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from conventions.paths import path_argument
from conventions.run_format import RUNS
from conventions.sentence import Arguments, one_sentence
from conventions.terminal_table import console
from harness.sweep.watch import EVERY, LiveTable, RunReader, RunRow, row_of, runs_table
from judge.records import find_runs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.runs", __doc__)
    parser.add_argument("folder", nargs="?", type=path_argument, default=RUNS, help=f"default: {RUNS}")
    parser.add_argument("--watch", action="store_true", help="go on looking until Ctrl-C")
    options = parser.parse_args(arguments)
    if options.watch and options.folder.is_dir():  # which may hold no run yet
        with suppress(KeyboardInterrupt):
            watch(options.folder)
        return
    with one_sentence():
        runs = find_runs(options.folder)
    console().print(runs_table([row_of(run.name, RunReader(run.folder).read()) for run in runs]))


def watch(folder: Path) -> None:
    """Show the runs below a folder, the ones yet to come too, until Ctrl-C."""
    readers: dict[Path, RunReader] = {}

    def rows() -> list[RunRow]:
        for path in sorted(manifest.parent for manifest in folder.rglob("manifest.json")):
            readers.setdefault(path, RunReader(path))
        runs = [reader.read() for reader in readers.values()]
        return [row_of(run.name, run) for run in runs if run]

    with LiveTable() as display:
        while True:
            display.show(rows)
            time.sleep(EVERY)


if __name__ == "__main__":
    main()
