"""Shows how far a preparation is: a bar on a terminal, a line now and then in a log file, or nothing."""

import sys
import time
from types import TracebackType
from typing import Any

EVERY = 15.0  # seconds between lines where there is no terminal


class Progress:
    """`with Progress("owt") as progress: progress.update(share, tokens)`; share is the part done or None."""

    def __init__(self, label: str, quiet: bool = False):
        self.label, self.quiet = label, quiet
        self.bar: Any = None
        self.began = self.reported = time.monotonic()
        self.first: int | None = None  # tokens that an earlier run made: not this one's speed

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(f"Preparing {self.label}", total=None, figures="")
            self.bar.start()
        return self

    def update(self, share: float | None, tokens: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.began = tokens, now
        rate = (tokens - self.first) / max(now - self.began, 1e-9)
        figures = f"{tokens / 1e6:,.1f}M tokens, {rate / 1e6:.2f}M/s"
        if self.bar:
            total = None if share is None else 1.0
            self.bar.update(self.task, completed=share or 0, total=total, figures=figures)
        elif now - self.reported > EVERY:
            self.reported = now
            self.say(f"preparing {self.label}: {'' if share is None else f'{share:.0%}, '}{figures}")

    def say(self, line: str) -> None:
        if self.bar:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
