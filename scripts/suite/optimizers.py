"""bench_suite's part optimizers: steps on the shapes of whole models, whole updates of those that ask for more, and
what the quicker ways to the same step are worth: their drift from float64, and their loss curves.

It is one list of items in the order of their worth; a call goes as far down as its time lets it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import device as devices
from optimizers import list_optimizers
from scripts.bench import drift
from scripts.suite import curves, exactness, steps, updates
from scripts.suite.exactness import CUDA_ALONE, shown
from scripts.suite.folder import Deadline, Folder
from scripts.suite.match import Match
from scripts.suite.step_table import table
from scripts.suite.steps import OURS, Unit, Way
from scripts.suite.throughput import step_seconds
from scripts.suite.train import opened, write_tokens

FILE, TABLE = "optimizers.json", "optimizers.md"
RESERVE = 10  # seconds that a call keeps for its tables
LEAST = RESERVE + 30  # that must be left to begin a unit, or a drift
QUICK = {"stagger": "true", "projection_dtype": "tf32"}  # a QR is slow on a GPU: see what Cholesky makes of it first
# Ways other than the YAML's: quicker ones to the same step, and some that a GPU alone has.
WAYS: list[tuple[str, Way]] = [
    ("soap", {**QUICK, "qr": "cholesky"}),
    ("soap", QUICK),
    ("soap", {"stagger": "true"}),
    ("soap", {**QUICK, "qr": "cholesky", "gram": "triton"}),
    ("soap", {"stagger": "true", "projection_dtype": "bfloat16"}),
    ("shampoo", {"stagger": "true"}),
    ("shampoo", {"block": "1024", "stagger": "true"}),
    ("kfac", {"stagger": "true"}),
    ("kfac", {"method": "inverse"}),
]
# What comes first at the first model. The first whole update follows the step of its optimizer.
FIRST: list[tuple[str, Way]] = [
    ("soap", {}), WAYS[0], ("sophia_g", {}), ("lion", {}), ("muon", {}), ("shampoo", {}), ("adahessian", {}),
    ("mkor", {}), ("kfac", {}),
]  # fmt: skip
FIRST_UPDATE = "sophia_g"
# Their products need so much memory that the search for a size of pass that fits takes several compilations.
LAST_UPDATES = ("adahessian", "sophia_h")


@dataclass(frozen=True)
class Item:
    """Something to measure.

    Attributes:
        least: seconds that must be left to begin it.
        left: how much of it is missing.
        run: measures that, as far as the time goes; True: nothing was measured in this call before, so that what does
            not end in it never will.
    """

    least: float
    left: Callable[[], int]
    run: Callable[[bool], None]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        models: names of configs/model; the first one's whole updates are measured too.
        context: tokens of a pass that hooks see.
        tokens, seconds: of an update, and of a turn of whole ones.
        references: NAME=PATH of checkouts.
    """

    models: list[str]
    only: list[str]
    vocabulary: int
    context: int
    tokens: int
    seconds: float
    rounds: int
    references: list[str]
    device: str
    commit: str | None
    drift_bed: drift.Bed
    curve_bed: curves.Bed

    def names(self) -> list[str]:
        return [info.name for info in list_optimizers() if not self.only or info.name in self.only]

    def ways(self) -> list[tuple[str, Way]]:
        """Those of WAYS that are asked for and that the device has."""
        here = [(n, way) for n, way in WAYS if self.device != "cpu" or not set(way.values()) & set(CUDA_ALONE)]
        return [(name, way) for name, way in here if not self.only or name in self.only]

    def pairs(self) -> list[curves.Pair]:
        """Each of the ways beside the plain one, in the passes that train.py chooses for the device."""
        return [
            curves.Pair(shown(name, way), (f"optimizer={name}",),
                        (f"optimizer={name}", *(f"optimizer.{key}={value}" for key, value in way.items())))
            for name, way in self.ways()
        ]  # fmt: skip

    def units(self, model: str) -> list[Unit]:
        """Those of FIRST, the other ways, the other optimizers."""
        known = [*self.ways(), *((name, Way()) for name in self.names())]
        first = [each for each in FIRST if each in known]
        return [Unit(model, name, way) for name, way in [*first, *(each for each in known if each not in first)]]

    def updates(self, folder: Folder) -> updates.Updates:
        """Of those whose updates are more than a gradient and a step."""
        beyond = updates.beyond_steps(self.names())
        beyond.sort(key=lambda name: (name != FIRST_UPDATE, name in LAST_UPDATES))
        return updates.Updates(
            models=self.models[:1], vocabulary=self.vocabulary, tokens=updates.tokens_of(folder, self.tokens),
            context=self.context, seconds=self.seconds, rounds=min(self.rounds, updates.ROUNDS),
            variants=[f"{updates.VARIANT}{name}" for name in beyond],
            nanogpt=None, programs=[], device=self.device, commit=self.commit, bed=self.curve_bed,
        )  # fmt: skip


@dataclass(frozen=True)
class Work:
    """A call: what it adds to, and until when."""

    plan: Plan
    book: dict[str, Any]
    folder: Folder
    deadline: Deadline
    say: Callable[[str], None]

    def items(self, whole: updates.Updates, rates: dict[str, Any], scratch: Path) -> list[Item]:
        """In the order of their worth. rates: the book of throughput.json, which whole updates go into."""
        first, *others = self.plan.models
        found = []
        call = (whole, rates, self.folder, self.deadline, self.say, scratch)
        matches = [Match(*call, *each) for each in whole.matches()]
        early = [match for match in matches if match.variant == f"{updates.VARIANT}{FIRST_UPDATE}"]
        for unit in self.plan.units(first):
            found.append(self.step(unit))
            if (unit.optimizer, unit.way) == (FIRST_UPDATE, {}):
                found += [self.update(match) for match in early]
        found += [self.update(match) for match in matches if match not in early]
        found += [self.drift(*each) for each in exactness.asked(self.plan.drift_bed, self.plan.only)]
        found += [self.step(unit) for model in others for unit in self.plan.units(model)]
        return [*found, self.curves()]

    def step(self, unit: Unit) -> Item:
        plan, book = self.plan, self.book

        def run(fresh: bool) -> None:
            self.say(f"{unit.model}: {shown(unit.optimizer, unit.way)}")
            about = {**unit.about(), "commit": plan.commit}
            try:
                found = steps.measure(unit, plan.vocabulary, plan.context, plan.rounds, plan.device, plan.references,
                                      self.deadline.left - RESERVE)  # fmt: skip
            except ValueError as error:
                book["failures"].append({**about, "error": str(error)})
                return
            book["rows"] += [{**row, **about} for row in found.rows]
            book["failures"] += [{**about, **each} for each in found.failures]
            if found.cut and fresh and not found.rows:  # else it gets a whole call, the next one
                book["failures"].append({**about, "error": self.late})

        return Item(LEAST, lambda: not steps.done(unit, book), run)

    def update(self, match: Match) -> Item:
        return Item(updates.LEAST, match.left, lambda fresh: updates.run(match, fresh, self.late))

    def drift(self, ways: exactness.Ways, way: Way) -> Item:
        bed, rows = self.plan.drift_bed, self.book["drift"]

        def run(fresh: bool) -> None:
            self.say(f"{shown(ways.optimizer, way)}: drift from float64 over {bed.updates} updates")
            found = exactness.measure(bed, ways, way, self.deadline.left - RESERVE, self.late if fresh else "")
            rows.extend({**row, "commit": self.plan.commit} for row in found)

        return Item(LEAST, lambda: not exactness.done(ways, way, rows), run)

    def curves(self) -> Item:
        pairs, bed, rows = self.plan.pairs(), self.plan.curve_bed, self.book["curves"]

        def run(fresh: bool) -> None:
            curves.measure(pairs, bed, rows, self.deadline, RESERVE, self.say, self.plan.commit)

        return Item(LEAST, lambda: curves.left(pairs, bed, rows), run)

    @property
    def late(self) -> str:
        return f"did not end within {self.deadline.minutes:g} minutes"


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """All that is missing, as far as the time goes; the files are whole after every item. How much is left."""
    identity = {
        **{"context": plan.context, "vocabulary": plan.vocabulary, "device": devices.device_name(plan.device)},
    }
    book, whole = folder.read(FILE, identity), plan.updates(folder)
    rates = opened(whole, folder)  # or say at once that it is of other settings
    for key in ("rows", "failures", "drift", "curves"):
        book.setdefault(key, [])
        # What failed is tried again once the code is another; not what stood beside ours, which is there.
        book[key] = [each for each in book[key] if not each.get("error") or each.get("commit") == plan.commit
                     or not each.get("implementation", OURS).startswith(OURS)]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        write_tokens(whole, Path(scratch))
        items = Work(plan, book, folder, deadline, say).items(whole, rates, Path(scratch))
        fresh = True
        for item in items:
            if item.left() and (fresh or deadline.fits(item.least)):
                item.run(fresh)
                keep(book, folder)
                fresh = False
        keep(book, folder)
        return sum(item.left() for item in items)


def keep(book: dict[str, Any], folder: Folder) -> None:
    """Write the file and the table; what is beside a whole step as soon as part train, or an update here, has one.

    updates: what throughput.json has of whole ones.
    share_of_step: of an optimizer with hooks, what its whole update takes beyond AdamW's, where that was measured. Else
        with the hooks' time, which was measured on one pass of `context` tokens and counts for every one of the
        step's: times the step's tokens over the context.
    share_is: which of the two; None: of an optimizer without hooks.
    worst_over_median_step: (step + largest) / (step + median) of the optimizer's own steps, hooks left out.
    """
    book["updates"] = updates.rows(folder)
    book["tokens"] = updates.tokens_of(folder, 0) or None  # of a whole update
    whole = {(each["optimizer"], each["model"]): each["extra_share"] for each in book["updates"] if "ratio" in each}
    models = {row["model"] for row in book["rows"]}
    known = {model: step_seconds(folder, model) or updates.adamw_seconds(folder, model) for model in models}
    for row in book["rows"]:
        row["share_of_step"] = row["hooks_ms_per_update"] = row["worst_over_median_step"] = row["step_tokens"] = None
        row["share_is"] = None
        if (seconds := known[row["model"]]) is None:
            continue
        step = 1e3 * seconds
        row["step_tokens"] = book["tokens"]
        row["share_of_step"] = row["amortised_ms"] / step
        if row.get("worst_ms") is not None:
            row["worst_over_median_step"] = (step + row["worst_ms"]) / (step + row["median_ms"])
        if row["hooks_ms_per_step"] is not None:
            row["hooks_ms_per_update"] = row["hooks_ms_per_step"] * row["step_tokens"] / book["identity"]["context"]
            row["share_of_step"] += row["hooks_ms_per_update"] / step
            row["share_is"] = "scaled"
            plain = row["implementation"].startswith(OURS) and not row["way"]
            if plain and (share := whole.get((row["optimizer"], row["model"]))) is not None:
                row["share_of_step"], row["share_is"] = share, "of whole updates"
    folder.write(FILE, book)
    folder.write_table(TABLE, table(book))
