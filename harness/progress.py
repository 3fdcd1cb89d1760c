"""What a person sees while a run goes on: a bar in a terminal, a line per evaluation elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressDisplay:
    """Told of every row; draws on stdout."""

    def __init__(self, name: str, steps: int, start: int) -> None:
        self.name, self.steps = name, steps
        self.val_loss: float | None = None
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                console=Console(),
            )  # fmt: skip
            self.task = self.bar.add_task(name, total=steps, completed=start, losses="")
            self.bar.start()

    def log(self, row: dict[str, Any]) -> None:
        self.val_loss = row.get("val/loss", self.val_loss)
        losses = f"val {self.val_loss:.4f}" if self.val_loss is not None else ""
        if row.get("train/loss") is not None:
            losses = f"train {row['train/loss']:.4f}  {losses}"
        if self.bar:
            self.bar.update(self.task, completed=row["step"], losses=losses)
        elif "val/loss" in row:
            print(
                f"{self.name}  step {row['step']}/{self.steps}  {losses}  {row['seconds/total']:.1f} s",
                flush=True,
            )

    def close(self, status: str) -> None:
        if self.bar:
            self.bar.stop()
        if status != "finished":
            print(f"{self.name}  {status}", flush=True)
