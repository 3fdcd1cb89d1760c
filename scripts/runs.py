"""Lists runs: how far each is, its last loss, and how long it still takes.

    python -m scripts.runs                        # results/runs
    python -m scripts.runs results/runs/my_study

`cut` is a run that was killed and can go on with resume=true. The time left comes from the run's own pace, with its
evaluations and checkpoints in it; the seconds are training time alone, as the comparisons count it.
"""

import argparse
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import quantity
from harness.records import Run, find_runs
from harness.sentence import one_sentence

COLORS = {"finished": "green", "running": "cyan", "cut": "yellow", "diverged": "red", "failed": "red"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.runs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", default="results/runs", help="default: results/runs")
    options = parser.parse_args(arguments)
    with one_sentence():
        runs = find_runs(options.folder)
    Console().print(runs_table(runs))


def runs_table(runs: Sequence[Run]) -> Table:
    """A line for each run."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    for column in ("status", "step", "loss", "left", "seconds"):
        table.add_column(column, justify="left" if column == "status" else "right")
    for run in runs:
        loss, seconds = last_loss(run), run.last("seconds/total")
        table.add_row(
            Text(run.name),
            f"[{COLORS[run.status]}]{run.status}[/]",
            f"{run.step:,}/{run.steps:,}",
            "" if loss is None else quantity.loss(loss),
            quantity.seconds(time_left(run)) if time_left(run) is not None else "",
            "" if seconds is None else quantity.seconds(seconds),
        )
    return table


def last_loss(run: Run) -> float | None:
    """The newest validation loss, or for want of one the newest training loss."""
    loss = run.last("val/loss")
    return run.last("train/loss") if loss is None else loss


def time_left(run: Run) -> float | None:
    """Seconds until a running run ends, if it goes on as it has; None where there is nothing to tell it by."""
    spent = [run.last(f"seconds/{part}") or 0.0 for part in ("total", "evaluate", "checkpoint")]
    if run.status != "running" or not run.step or not any(spent):
        return None
    return sum(spent) / run.step * (run.steps - run.step)


if __name__ == "__main__":
    main()
