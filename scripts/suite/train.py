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
import yaml

from harness import device as devices
from harness.config import CONFIGS
from harness.micro_batch import CPU_TOKENS, CUDA_TOKENS, divisors
from optimizers import list_optimizers
from scripts.bench import side
from scripts.bench.contenders import Contender, Halfstep, NanoGPT, Setting, find_model, recipe
from scripts.bench.side import Side
from scripts.bench.stand import periods
from scripts.bench.timing import best_products
from scripts.suite import curves, track3
from scripts.suite.folder import Deadline, Folder
from scripts.suite.start import measure_start
from scripts.suite.throughput import FILE, PLAIN, keep

TRACK3_ROUNDS = 2  # in every other one: it starts anew for every turn, which takes a minute and more
RESERVE = 20  # seconds that a call keeps for its tables


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        tokens, context: of an update, of a sequence.
        seconds: of a turn.
        rounds: of every match.
        variants: of halfstep, as key=value with + between; nanogpt:key=value is one of nanoGPT.
        nanogpt, track3: files of their checkouts.
    """

    models: list[str]
    vocabulary: int
    tokens: int
    context: int
    seconds: float
    rounds: int
    variants: list[str]
    nanogpt: Path | None
    track3: Path | None
    device: str
    commit: str | None
    bed: curves.Bed

    @property
    def pair(self) -> curves.Pair:
        """The passes that a GPU chooses, beside eager ones in float32."""
        quick = "bfloat16, compiled" if devices.resolve_compile("auto", self.device) else "bfloat16"
        return curves.Pair(quick, ("compile=false", "dtype=float32"), ("compile=auto", "dtype=bfloat16"))

    def setting(self, model: str, folder: Path) -> Setting:
        shape = yaml.safe_load((CONFIGS / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
        return Setting(
            layers=shape["layers"], heads=shape["heads"], width=shape["width"], context=self.context,
            vocabulary=self.vocabulary, sequences=self.tokens // self.context, micro=0, tokens=folder / "train.bin",
            device=self.device, dtype=devices.resolve_dtype("auto", self.device),
            compiled=devices.resolve_compile("auto", self.device),
        )  # fmt: skip

    @property
    def micros(self) -> list[int]:
        """Sequences per pass: the first that fits the memory is taken, by nanoGPT too."""
        most = CUDA_TOKENS if self.device.startswith("cuda") else CPU_TOKENS
        return [d for d in divisors(self.tokens // self.context) if d == 1 or d * self.context <= most]

    def matches(self) -> list[tuple[str, str]]:
        """(model, variant): the plain ones first."""
        return [(model, variant) for variant in [PLAIN, *self.variants] for model in self.models]


def check_variant(text: str, sequences: int) -> str:
    """Raises ValueError for a variant that cannot be: of updates of so many sequences."""
    for key, value in _changes(text).items():
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


def _changes(variant: str) -> dict[str, Any]:
    if variant == PLAIN:
        return {}
    pairs = [pair.partition("=") for pair in variant.removeprefix("nanogpt:").split("+")]
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """All that is missing, as far as the time goes; the files are whole after every round. What is left, in rounds."""
    identity = {
        **{"tokens": plan.tokens, "context": plan.context, "dtype": str(devices.resolve_dtype("auto", plan.device))},
        **{"vocabulary": plan.vocabulary, "device": devices.device_name(plan.device)},
    }
    book = folder.read(FILE, identity)
    for key in ("rounds", "failures", "start", "rows", "curves"):
        book.setdefault(key, [])
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        tokens = np.random.default_rng(0).integers(0, min(plan.vocabulary, 50_257), max(2**20, 8 * plan.tokens))
        tokens.astype("<u2").tofile(place / "train.bin")
        matches = [Match(plan, book, folder, deadline, say, place, *match) for match in plan.matches()]
        for match in matches:
            if deadline.left > RESERVE:
                match.run()
        if not book["start"] and deadline.left > RESERVE:
            say(f"{plan.models[0]}: train.py, from the command to the first update")
            try:
                found = measure_start(plan.models[0], plan.tokens, plan.context, plan.device, place, deadline)
                book["start"] = [{**row, "commit": plan.commit} for row in found]
            except TimeoutError:
                say("no time is left for it: the same command goes on")
            except ValueError as error:
                say(str(error))
    keep(book, folder)
    pairs = curves.measure([plan.pair], plan.bed, book["curves"], deadline, RESERVE, say)
    keep(book, folder)
    return sum(match.left() for match in matches) + (not book["start"]) + pairs


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
        sides = {key: make for key, make in self.sides().items() if not self.failed(*key)}
        if not self.left():
            return
        with ExitStack() as stack:
            steps, resident = {}, {}
            try:
                for key, make in sides.items():
                    self.say(f"{self.model}: {key[0]} ({key[1]}) is compiled and warmed up")
                    one = stack.enter_context(Side(make))
                    try:
                        one.ask(self.deadline.left - RESERVE, side.turn, 2)
                        steps[key] = max(1, round(3 * self.plan.seconds / one.ask(self.time, side.turn, 3)))
                        if name := _changes(key[1]).get("optimizer"):  # whole periods, of what refreshes now and then
                            period = math.lcm(*periods(recipe(name)))
                            steps[key] = period * math.ceil(steps[key] / period)
                        resident[key] = one
                    except ValueError as error:
                        self.fail(key, str(error))
                if "matmul_flops" not in self.book and resident:
                    first = next(iter(resident.values()))
                    setting = self.plan.setting(self.model, self.place)
                    self.book["matmul_flops"] = first.ask(self.time, best_products, setting)
                self.book["device"] = devices.describe(self.plan.device)
                longest = 0.0
                while self.left() and resident and self.deadline.fits(1.3 * longest + RESERVE):
                    before = self.deadline.left
                    self.round(resident, steps)
                    longest = max(longest, before - self.deadline.left)
            except TimeoutError:
                self.say(f"{self.model}: the time of this call is over; the same command goes on")

    @property
    def time(self) -> float:
        return self.deadline.left - RESERVE

    def done(self, system: str, variant: str) -> int:
        """Rounds of this match that it has been in."""
        key = (self.model, self.variant, system, variant)
        return sum((r["model"], r["match"], r["system"], r["variant"]) == key for r in self.book["rounds"])

    def left(self) -> int:
        """Rounds to do, until all that can run have been in as many as they should."""
        keys = [key for key in self.sides() if not self.failed(*key)]
        if self.variant not in [variant for _, variant in keys]:
            return 0  # there is nothing to stand beside halfstep as it is
        lacking = [self.plan.rounds - self.done(*key) for key in keys]
        if self.theirs:
            lacking.append(TRACK3_ROUNDS - self.done("track3", PLAIN))
        return max(0, *lacking)

    @property
    def theirs(self) -> Path | None:
        """Track 3's script, where this match is one that it belongs to."""
        here = (self.model, self.variant) == (track3.MODEL, PLAIN) and not self.failed("track3", PLAIN)
        return self.plan.track3 if here else None

    def round(self, resident: dict[tuple[str, str], Side], steps: dict[tuple[str, str], int]) -> None:
        mine = [r["round"] for r in self.book["rounds"] if (r["model"], r["match"]) == (self.model, self.variant)]
        number, found = 1 + max(mine, default=-1), []
        for (system, variant), one in resident.items():
            seconds = one.ask(self.time, side.turn, steps[system, variant])
            about = one.ask(self.time, side.about)
            rate = steps[system, variant] * self.plan.tokens / seconds
            found.append({"system": system, "variant": variant, "tokens_per_second": rate, **about})
        if (theirs := self.theirs) and number % 2 == 0 and self.done("track3", PLAIN) < TRACK3_ROUNDS:
            folder = self.place / "track3"
            if not folder.exists():
                track3.prepare(folder)
            try:
                rate = track3.tokens_per_second(theirs, folder, self.time)
                # Its shape has GPT-2's numbers; its passes are of 64 sequences.
                unknown = {"micro_batch": 64, "peak_bytes": None, "syncs_per_update": None}
                found.append({**found[0], **unknown, "system": "track3", "variant": PLAIN, "tokens_per_second": rate})
            except ValueError as error:
                self.fail(("track3", PLAIN), str(error))
        about = {"model": self.model, "match": self.variant, "round": number, "commit": self.plan.commit}
        self.book["rounds"] += [{**about, **row} for row in found]
        told = ", ".join(f"{row['system']} ({row['variant']}) {row['tokens_per_second']:,.0f}" for row in found)
        self.say(f"{self.model}, round {number + 1}, tokens/s: {told}")
        keep(self.book, self.folder)

    def sides(self) -> dict[tuple[str, str], Callable[[], Contender]]:
        """By system and variant: how to make it, in a process of its own."""
        setting = self.plan.setting(self.model, self.place)
        nanogpt = partial(NanoGPT, source=self.plan.nanogpt) if self.plan.nanogpt else None
        systems: dict[str, Any] = {"halfstep": Halfstep, **({"nanogpt": nanogpt} if nanogpt else {})}
        found: dict[tuple[str, str], Callable[[], Contender]] = {}
        if self.variant == PLAIN:
            wanted = [(system, PLAIN) for system in systems]
        else:
            system = "nanogpt" if self.variant.startswith("nanogpt:") else "halfstep"
            wanted = [(system, PLAIN), (system, self.variant)] if system in systems else []
        for system, variant in wanted:
            changes = _changes(variant)
            micros = [changes.pop("micro")] if "micro" in changes else self.plan.micros
            found[system, variant] = partial(side.fitting, systems[system], replace(setting, **changes), micros)
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
