"""The bench's work in the order of its worth, as far as the time goes; every round is in the store once it is made.

What breaks costs its own measurement, what hangs is killed, and a side that runs out of memory beside another one takes
smaller passes. Where the time is over, the round that was running is lost, and the next call begins with it.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any

from conventions.config_keys import CONFIGS
from harness.process import Conversation
from judge.measurement_store import Store
from judge.measurements import Entry
from scripts.bench.measurement import Measurement
from scripts.bench.worker import out_of_memory

RESERVE, LEAST = 5.0, 15.0  # seconds that a call keeps for its tables, and that must be left to begin a measurement


class Scheduler:
    """A call of the bench, of so many seconds.

    Inside, TimeoutError says that the call's time is over, ValueError that a side does not run, and MemoryError that
    one needs smaller passes beside the other.

    Args:
        scratch: the folder for the workers' logs.
        say: shows a line.
    """

    def __init__(self, store: Store, seconds: float, scratch: Path, say: Callable[[str], None]) -> None:
        self.store, self.scratch, self.say = store, scratch, say
        self.length, self.end = seconds, time.monotonic() + seconds
        self.measured = False

    @property
    def left(self) -> float:
        return self.end - time.monotonic() - RESERVE

    def missing(self, wanted: Sequence[Measurement]) -> list[Measurement]:
        """Return the measurements that have rounds to make, and can be made as far as is known."""
        known = [(one, self.store.record(one.what)) for one in wanted]
        return [one for one, record in known if not record.error and len(record.rounds) < one.rounds]

    def run(self, wanted: Sequence[Measurement]) -> None:
        while (todo := self.missing(wanted)) and (self.left > LEAST or not self.measured):
            group = [one for one in todo[: todo[0].together] if one.part == todo[0].part]
            try:
                self.measure(group)
            except TimeoutError:
                if not self.measured:  # it had a whole call: were it begun again, nothing else would have its turn
                    self.fail(group[0], f"it did not end within a call of {self.length / 60:g} minutes")
                return

    def measure(self, group: Sequence[Measurement]) -> None:
        """Build a group's sides, and then make each measurement's rounds with nobody else at work."""
        line = [sys.executable, "-m", "scripts.bench.worker"]
        with ExitStack() as stack:
            workers = [
                [stack.enter_context(Conversation(line, self.scratch / f"{one.part}.log", folder=CONFIGS.parent))
                 for _ in one.sides] for one in group
            ]  # fmt: skip
            facts: list[list[Entry]] = [[] for _ in group]
            for one, mine in zip(group, workers, strict=True):
                self.build(one, mine, 0)
            for work in (self.ready, self.rounds):
                for one, mine, known in zip(group, workers, facts, strict=True):
                    try:
                        if self.missing([one]):
                            work(one, mine, known)
                    except ValueError as error:
                        self.fail(one, str(error))
                    except MemoryError as note:
                        self.say(f"  {note}")

    def ready(self, one: Measurement, workers: Sequence[Conversation], facts: list[Entry]) -> None:
        """Wait until all sides have compiled; each finds the size of its passes while the other one is at rest."""
        for number in range(len(workers)):
            if number:
                self.build(one, workers, number)
            facts.append(self.hear(one, workers, number, facts))

    def rounds(self, one: Measurement, workers: Sequence[Conversation], facts: list[Entry]) -> None:
        self.say(one.what)
        updates = [one.updates or f["period"] * max(1, ceil(one.seconds / max(f["update"], 1e-6) / f["period"]))
                   for f in facts]  # fmt: skip
        while self.missing([one]):
            left = self.left
            turns: list[list[Entry]] = [[] for _ in workers]
            for place, letter in enumerate(one.order):
                side = "AB".index(letter)
                last = letter not in one.order[place + 1 :]
                workers[side].ask({"updates": updates[side], "parts": one.parts and last})
                turns[side].append(self.hear(one, workers, side, facts))
            number = 1 + max(self.store.record(one.what).rounds, default=-1)
            self.store.add({**head(one), "round": number, "facts": facts, "turns": turns})
            self.measured = True
            self.say(f"  round {number + 1} of {one.rounds}: {shown(one, facts, turns)}")
            if 2 * self.left < left and self.missing([one]):  # no other one will fit
                raise TimeoutError

    def build(self, one: Measurement, workers: Sequence[Conversation], number: int) -> None:
        side, sizes = one.sides[number], self.store.record(one.what).sizes
        size = {"micro": sizes[side.name]} if side.name in sizes else {}
        workers[number].ask({"kind": side.kind, "keywords": {**side.keywords, **size}})

    def hear(self, one: Measurement, workers: Sequence[Conversation], number: int, facts: Sequence[Entry]) -> Entry:
        """Wait for a side's answer."""
        name, allowed = one.sides[number].name, max(0.0, min(one.limit, self.left))
        try:
            answer: Entry = workers[number].hear(allowed)
        except TimeoutError:
            if allowed < one.limit:
                raise
            raise ValueError(f"{name} did not answer within {one.limit:.0f} s") from None
        except ValueError as error:
            raise ValueError(f"{name} died: {error}") from None
        if "error" not in answer:
            return answer
        size = facts[number].get("micro", 1) if number < len(facts) else 1
        if size == 1 or not out_of_memory(answer["error"]):
            raise ValueError(f"{name}: {answer['error']}")
        smaller = next(d for d in range(size - 1, 0, -1) if size % d == 0)
        self.store.add({**head(one), "round": None, "sizes_fit": {name: smaller}})
        raise MemoryError(f"{name} is out of memory beside the other side: {smaller} sequences per pass from now on")

    def fail(self, one: Measurement, why: str) -> None:
        self.say(f"{one.what}\n  does not run: {why}")
        self.store.add({**head(one), "round": None, "error": why})
        self.measured = True


def head(one: Measurement) -> dict[str, Any]:
    return {"what": one.what, "part": one.part, "about": dict(one.about), "sides": [side.name for side in one.sides]}


def shown(one: Measurement, facts: Sequence[Entry], turns: Sequence[Sequence[Entry]]) -> str:
    """Say what a round came to, on a line."""
    words = []
    for side, fact, mine in zip(one.sides, facts, turns, strict=True):
        words.append(f"{side.name} {1e3 * sum(turn['seconds'] for turn in mine) / len(mine):,.2f} ms")
        if "first_loss" in fact:
            words[-1] += f", loss {fact['first_loss']:.2f} to {mine[-1]['loss']:.2f}"
    return "; ".join(words)
