"""bench_suite's part train: tokens per second of halfstep, nanoGPT and modded-nanogpt's track 3 on one card, in turns.

A match is two sides or three of one model, resident together and never at work at once; its rounds go into
throughput.json one by one. A variant of halfstep's meets halfstep as it is in a match of its own.
"""

import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import device as devices
from optimizers import list_optimizers
from scripts.bench import side
from scripts.bench.contenders import Halfstep, NanoGPT, find_model, recipe
from scripts.bench.side import Make, Side
from scripts.bench.stand import periods
from scripts.bench.timing import best_products
from scripts.suite import curves, start, track3
from scripts.suite.folder import Deadline, Folder
from scripts.suite.throughput import FILE, PLAIN, keep
from scripts.suite.train_plan import Plan, changes_of

TRACK3_ROUNDS = 2  # in every other one: it starts anew for every turn, which takes a minute and more
TRACK3_SECONDS = 200  # that must be left for a turn of it
RESERVE = 20  # seconds that a call keeps for its tables


def check_variant(text: str, sequences: int) -> str:
    """Raises ValueError for a variant that cannot be: of updates of so many sequences."""
    for key, value in changes_of(text).items():
        known = {"compile": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
                 "attention": ("auto", "flash", "cudnn", "efficient"),
                 "optimizer": [info.name for info in list_optimizers()]}  # fmt: skip
        if key not in (*known, "micro", "head_rows"):
            raise ValueError(f"--variants {text}: {key} is none of {', '.join(known)}, micro, head_rows")
        if key in known and value not in known[key]:
            raise ValueError(f"--variants {text}: {key} must be {', '.join(known[key])}, not {value}")
        if text.startswith("nanogpt:") and key in ("optimizer", "head_rows"):
            raise ValueError(f"--variants {text}: {key} is halfstep's alone")
        if key not in known and (not isinstance(value, int) or value < 1):
            raise ValueError(f"--variants {text}: {key} must be a whole number of at least 1")
        if key == "micro" and sequences % value:
            raise ValueError(f"--variants {text}: micro={value} does not divide the {sequences} sequences of an update")
    return text


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """All that is missing, as far as the time goes; the files are whole after every round. What is left, in rounds."""
    identity = {
        **{"tokens": plan.tokens, "context": plan.context, "dtype": str(devices.resolve_dtype("auto", plan.device))},
        **{"vocabulary": plan.vocabulary, "device": devices.device_name(plan.device)},
    }
    book = folder.read(FILE, identity)
    for key in ("rounds", "failures", "micros", "start", "rows", "curves"):
        book.setdefault(key, [])
    model = plan.models[0]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        tokens = np.random.default_rng(0).integers(0, min(plan.vocabulary, 50_257), max(2**20, 8 * plan.tokens))
        tokens.astype("<u2").tofile(place / "train.bin")
        matches = [Match(plan, book, folder, deadline, say, place, *match) for match in plan.matches()]
        for match in matches:
            if deadline.left > RESERVE:
                match.run()
        if start.left(model, book) and deadline.left > RESERVE:
            start.add(book, folder, deadline, say, place, model, plan.tokens, plan.context, plan.device, plan.commit)
    keep(book, folder)
    pairs = curves.measure([plan.pair], plan.bed, book["curves"], deadline, RESERVE, say)
    keep(book, folder)
    return sum(match.left() for match in matches) + start.left(model, book) + pairs


@dataclass
class Match:
    plan: Plan
    book: dict[str, Any]
    folder: Folder
    deadline: Deadline
    say: Callable[[str], None]
    place: Path
    model: str
    variant: str

    def run(self) -> None:
        try:
            if self.sides_left():
                self.meet()
            while self.theirs_left() and self.deadline.fits(TRACK3_SECONDS + RESERVE):
                self.meet_theirs()
        except TimeoutError:
            self.say(f"{self.model}: the time of this call is over; the same command goes on")

    def meet(self) -> None:
        """The rounds of the sides, track 3's turns in between."""
        sides = {key: makes for key, makes in self.sides().items() if not self.failed(*key)}
        steps, resident, longest = {}, {}, 0.0
        with ExitStack() as stack:
            for key, makes in sides.items():
                self.say(f"{self.model}: {key[0]} ({key[1]}) is compiled and warmed up")
                try:
                    one = self.fitting(stack, key, makes)
                    update = one.ask(self.time, side.turn, 3) / 3
                except ValueError as error:
                    self.fail(key, str(error))
                    continue
                steps[key] = max(1, round(self.plan.seconds / update))
                if name := changes_of(key[1]).get("optimizer"):  # whole periods, of what refreshes now and then
                    period = math.lcm(*periods(recipe(name)))
                    steps[key] = period * math.ceil(steps[key] / period)
                resident[key] = one
                longest += (steps[key] + 3) * update
            if "matmul_flops" not in self.book and resident:
                first = next(iter(resident.values()))
                setting = self.plan.setting(self.model, self.place)
                self.book["matmul_flops"] = first.ask(self.time, best_products, setting)
            self.book["device"] = devices.describe(self.plan.device)
            while self.sides_left() and resident and self.deadline.fits(1.3 * longest + RESERVE):
                before = self.deadline.left
                self.round(resident, steps)
                longest = max(longest, before - self.deadline.left)
                if self.theirs_left() and self.number % 2 and self.deadline.fits(TRACK3_SECONDS + RESERVE):
                    self.meet_theirs()

    def fitting(self, stack: ExitStack, key: tuple[str, str], makes: dict[int, Make]) -> Side:
        """The side with the first number of sequences per pass whose update fits the memory.

        What did not fit is noted at once, and what did: every try is a compilation, and the next call has none to lose.
        """
        about = {"model": self.model, "system": key[0], "variant": key[1]}
        known = [each for each in self.book["micros"] if about.items() <= each.items()]
        small = {each["micro"] for each in known if each["fits"]}
        for micro, make in makes.items():
            if micro > min(small, default=micro) or any(e["micro"] == micro and not e["fits"] for e in known):
                continue
            one = stack.enter_context(Side(make))
            try:
                one.ask(self.time, side.turn, 2)
                fits = True
            except ValueError as error:
                one.end()
                if not side.out_of_memory(str(error)):
                    raise
                fits = False
            if {**about, "micro": micro, "fits": fits} not in known:
                self.book["micros"].append({**about, "micro": micro, "fits": fits})
                keep(self.book, self.folder)
            if fits:
                return one
        raise ValueError(f"not even {min(makes)} sequences per pass fit the memory")

    @property
    def time(self) -> float:
        return self.deadline.left - RESERVE

    def done(self, system: str, variant: str) -> int:
        """Rounds of this match that it has been in."""
        key = (self.model, self.variant, system, variant)
        return sum((r["model"], r["match"], r["system"], r["variant"]) == key for r in self.book["rounds"])

    def left(self) -> int:
        """Turns to do, of the sides and of track 3, until all that can run have been in as many as they should."""
        return max(self.sides_left(), self.theirs_left())

    def sides_left(self) -> int:
        keys = [key for key in self.sides() if not self.failed(*key)]
        if self.variant not in [variant for _, variant in keys]:
            return 0  # there is nothing to stand beside halfstep as it is
        return max(0, *(self.plan.rounds - self.done(*key) for key in keys))

    def theirs_left(self) -> int:
        """Not before a round of the sides, whose numbers a row of it takes over."""
        return TRACK3_ROUNDS - self.done("track3", PLAIN) if self.theirs and self.rows else 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [r for r in self.book["rounds"] if (r["model"], r["match"]) == (self.model, self.variant)]

    @property
    def number(self) -> int:
        """Of the next round."""
        return 1 + max((row["round"] for row in self.rows), default=-1)

    @property
    def theirs(self) -> Path | None:
        """Track 3's script, where this match is one that it belongs to."""
        here = (self.model, self.variant) == (track3.MODEL, PLAIN) and not self.failed("track3", PLAIN)
        return self.plan.track3 if here else None

    def round(self, resident: dict[tuple[str, str], Side], steps: dict[tuple[str, str], int]) -> None:
        """One that fails is out of the match; the rates of the others are kept."""
        found = []
        for key, one in list(resident.items()):
            try:
                seconds = one.ask(self.time, side.turn, steps[key])
                about = one.ask(self.time, side.about)
            except ValueError as error:
                resident.pop(key).end()
                self.fail(key, str(error))
                continue
            rate = steps[key] * self.plan.tokens / seconds
            found.append({"system": key[0], "variant": key[1], "tokens_per_second": rate, **about})
        if found:
            self.add(self.number, found)

    def meet_theirs(self) -> None:
        """A turn of track 3's, in the round before."""
        assert self.plan.track3
        folder = self.place / "track3"
        if not folder.exists():
            track3.prepare(folder)
        self.say(f"{self.model}: track3 is compiled and timed")
        try:
            rate = track3.tokens_per_second(self.plan.track3, folder, self.time)
        except ValueError as error:
            self.fail(("track3", PLAIN), str(error))
            return
        # Its shape has GPT-2's numbers; its passes are of 64 sequences.
        unknown = {"micro_batch": 64, "peak_bytes": None, "syncs_per_update": None}
        row = {**self.rows[0], **unknown, "system": "track3", "variant": PLAIN, "tokens_per_second": rate}
        self.add(self.number - 1, [row])

    def add(self, number: int, rows: list[dict[str, Any]]) -> None:
        about = {"model": self.model, "match": self.variant, "round": number, "commit": self.plan.commit}
        self.book["rounds"] += [{**row, **about} for row in rows]
        told = ", ".join(f"{row['system']} ({row['variant']}) {row['tokens_per_second']:,.0f}" for row in rows)
        self.say(f"{self.model}, round {number + 1}, tokens/s: {told}")
        keep(self.book, self.folder)

    def sides(self) -> dict[tuple[str, str], dict[int, Make]]:
        """By system and variant: how to make it, in a process of its own, by sequences per pass; most come first."""
        setting = self.plan.setting(self.model, self.place)
        nanogpt = partial(NanoGPT, source=self.plan.nanogpt) if self.plan.nanogpt else None
        systems: dict[str, Any] = {"halfstep": Halfstep, **({"nanogpt": nanogpt} if nanogpt else {})}
        found: dict[tuple[str, str], dict[int, Make]] = {}
        if self.variant == PLAIN:
            wanted = [(system, PLAIN) for system in systems]
        else:
            system = "nanogpt" if self.variant.startswith("nanogpt:") else "halfstep"
            wanted = [(system, PLAIN), (system, self.variant)] if system in systems else []
        for system, variant in wanted:
            changes = changes_of(variant)
            micros = [changes.pop("micro")] if "micro" in changes else self.plan.micros
            found[system, variant] = {
                micro: partial(systems[system], replace(setting, micro=micro, **changes)) for micro in micros
            }
        return found

    def failed(self, system: str, variant: str) -> bool:
        return any((f["model"], f["system"], f["variant"]) == (self.model, system, variant)
                   for f in self.book["failures"])  # fmt: skip

    def fail(self, key: tuple[str, str], why: str) -> None:
        self.say(f"{self.model}: {key[0]} ({key[1]}) does not run: {why}")
        self.book["failures"].append({"model": self.model, "system": key[0], "variant": key[1], "error": why})
        keep(self.book, self.folder)


def places(nanogpt: Path | None, theirs: Path | None, device: str, say: Callable[[str], None]) -> tuple[Any, Any]:
    """The peers' files; a sentence on each that is left out."""
    if nanogpt is None:
        say("nanogpt is left out: give --nanogpt, the path of a checkout of it")
    if theirs is None:
        say("track3 is left out: give --track3, the path of a checkout of modded-nanogpt")
    elif not device.startswith("cuda"):
        say(f"track3 is left out: {track3.find_script(theirs).name} runs on CUDA alone")
        theirs = None
    return (find_model(nanogpt) if nanogpt else None, track3.find_script(theirs) if theirs else None)


def divides(tokens: int, context: int) -> None:
    if context < 1 or tokens < context or tokens % context:
        near = max(1, math.floor(tokens / max(1, context))) * max(1, context)
        raise ValueError(f"--tokens must be a multiple of --context={context}, {near} for one, not {tokens}")
