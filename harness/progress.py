"""The progress of a run on stdout: a bar in a terminal, a line per evaluation elsewhere."""

import os
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
    """A tracker that draws on stdout."""

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
            self._say(f"{self.name}  step {row['step']}/{self.steps}  {losses}  {row['seconds/total']:.1f} s")

    def close(self, status: str) -> None:
        if self.bar:
            self.bar.stop()
        if status != "finished":
            self._say(f"{self.name}  {status}")

    @staticmethod
    def _say(line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # whoever read has gone; the run goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
