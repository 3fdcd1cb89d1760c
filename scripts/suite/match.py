"""Two sides of one model in turns: resident together, and never at work at once; programs of others in between.

Every round goes into throughput.json as it ends. A variant of halfstep's meets halfstep as it is in a match of its own.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import device as devices
from scripts.bench import side
from scripts.bench.contenders import Halfstep, NanoGPT, recipe
from scripts.bench.side import Make, Side
from scripts.bench.stand import periods
from scripts.bench.timing import best_products
from scripts.suite.beside import PLAIN
from scripts.suite.folder import Deadline, Folder
from scripts.suite.program import MOST, ROUNDS, SECONDS, Program
from scripts.suite.throughput import keep
from scripts.suite.train_plan import Plan, changes_of

RESERVE = 20  # seconds that a call keeps for its tables


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
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)  # sequences per pass of the sides that are resident

    def run(self) -> None:
        try:
            while self.sides_left() and self.meet():
                pass
            self.run_programs()
        except TimeoutError:
            self.say(f"{self.model}: the time of this call is over; the same command goes on")

    def meet(self) -> bool:
        """The rounds of the sides, the programs' turns in between. True: all over again, one needs smaller passes."""
        sides = {key: makes for key, makes in self.sides().items() if not self.failed(*key)}
        steps, resident, longest = {}, {}, 0.0
        with ExitStack() as stack:
            for key, makes in sides.items():
                self.say(f"{self.model}: {key[0]} ({key[1]}) is compiled and warmed up")
                one = None
                try:
                    one = self.fitting(stack, key, makes)
                    update = one.ask(self.time, side.turn, 3) / 3
                except ValueError as error:
                    if one:
                        one.end()  # the others want its memory
                    self.fail(key, str(error))
                    continue
                steps[key] = max(1, round(self.plan.seconds / update))
                if name := changes_of(key[1]).get("optimizer"):  # whole periods, of what refreshes now and then
                    period = math.lcm(*periods(recipe(name)))
                    steps[key] = period * math.ceil(steps[key] / period)
                resident[key] = one
                longest += (steps[key] + 3) * update
            if "matmul_flops" not in self.book and resident:
                self.best_product(next(iter(resident.values())))
            self.book["device"] = devices.describe(self.plan.device)
            while self.sides_left() and resident and self.deadline.fits(1.3 * longest + RESERVE):
                before = self.deadline.left
                if not self.round(resident, steps):
                    return True
                longest = max(longest, before - self.deadline.left)
                if self.number % 2:
                    self.run_programs(1)
        return False

    def fitting(self, stack: ExitStack, key: tuple[str, str], makes: dict[int, Make]) -> Side:
        """The side with the first number of sequences per pass whose update fits the memory.

        What did not fit is noted at once, and what did: every try is a compilation, and the next call has none to lose.
        """
        mine = [each for each in self.book["micros"] if self.about(key).items() <= each.items()]
        known = {(each["micro"], each["fits"]) for each in mine}
        small = min((micro for micro, fits in known if fits), default=max(makes))
        for micro, make in makes.items():
            if micro > small or (micro, False) in known:
                continue
            one = stack.enter_context(Side(make))
            try:
                self.first_turn(one)
            except ValueError as error:
                one.end()
                if not side.out_of_memory(str(error)):
                    raise
                self.note(key, micro, False)
                continue
            self.note(key, micro, True)
            self.sizes[key] = micro
            return one
        raise ValueError(f"not even {min(makes)} sequences per pass fit the memory")

    def first_turn(self, one: Side) -> None:
        """Compilation and all, for which it has half a call at the most: one that hangs must not take every call."""
        most = 30 * self.deadline.minutes
        try:
            one.ask(min(self.time, most), side.turn, 2)
        except TimeoutError:
            if self.time <= 0:
                raise
            raise ValueError(f"its first updates did not end within {most:.0f} s") from None

    def note(self, key: tuple[str, str], micro: int, fits: bool) -> None:
        row = {**self.about(key), "micro": micro, "fits": fits, "commit": self.plan.commit}
        if row not in self.book["micros"]:
            self.book["micros"].append(row)
            keep(self.book, self.folder)

    def about(self, key: tuple[str, str]) -> dict[str, Any]:
        return {"model": self.model, "system": key[0], "variant": key[1]}

    def best_product(self, one: Side) -> None:
        try:
            self.book["matmul_flops"] = one.ask(self.time, best_products, self.plan.setting(self.model, self.place))
        except ValueError as error:  # the next match asks again
            self.say(f"the best product's rate is not known yet: {error}")

    @property
    def time(self) -> float:
        return self.deadline.left - RESERVE

    def done(self, system: str, variant: str) -> int:
        """Rounds of this match that it has been in."""
        key = (self.model, self.variant, system, variant)
        return sum((r["model"], r["match"], r["system"], r["variant"]) == key for r in self.book["rounds"])

    def left(self) -> int:
        """Turns to do until all that can run have been in as many as they should."""
        return max(self.sides_left(), *(ROUNDS - self.done(each.system, each.variant) for each in self.programs), 0)

    def sides_left(self) -> int:
        keys = [key for key in self.sides() if not self.failed(*key)]
        if self.variant not in [variant for _, variant in keys]:
            return 0  # there is nothing to stand beside halfstep as it is
        return max(0, *(self.plan.rounds - self.done(*key) for key in keys))

    @property
    def programs(self) -> list[Program]:
        """Those of this match that have a turn left, after the sides' first round, whose number a row of theirs has."""
        mine = [p for p in self.plan.programs if (p.model, PLAIN) == (self.model, self.variant) and self.rows]
        return [p for p in mine if not self.failed(p.system, p.variant) and self.done(p.system, p.variant) < ROUNDS]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [r for r in self.book["rounds"] if (r["model"], r["match"]) == (self.model, self.variant)]

    @property
    def number(self) -> int:
        """Of the next round."""
        return 1 + max((row["round"] for row in self.rows), default=-1)

    def round(self, resident: dict[tuple[str, str], Side], steps: dict[tuple[str, str], int]) -> bool:
        """One that fails is out of the match; the rates of the others are kept.

        False: one ran out of memory, which was enough until another came in beside it, and needs smaller passes.
        """
        found, enough = [], True
        for key, one in list(resident.items()):
            try:
                seconds = one.ask(self.time, side.turn, steps[key])
                about = one.ask(self.time, side.about)
            except ValueError as error:
                resident.pop(key).end()
                if side.out_of_memory(str(error)):
                    enough = False
                    self.note(key, self.sizes[key], False)
                else:
                    self.fail(key, str(error))
                continue
            rate = steps[key] * self.plan.tokens / seconds
            found.append({"system": key[0], "variant": key[1], "tokens_per_second": rate, **about})
        if found:
            self.add(self.number, found)
        return enough

    def run_programs(self, most: int = ROUNDS) -> None:
        """So many turns of each that is left, as far as the time goes, in the round before."""
        for program in self.programs:
            for _ in range(min(most, ROUNDS - self.done(program.system, program.variant))):
                if self.deadline.fits(SECONDS + RESERVE) and not self.failed(program.system, program.variant):
                    self.turn(program)

    def turn(self, program: Program) -> None:
        """It has GPT-2's numbers, and so the FLOPs per token of the row that it stands beside."""
        self.say(f"{self.model}: {program.system} ({program.variant}) is compiled and timed")
        folder = self.place / program.system
        folder.mkdir(exist_ok=True)
        loops = [row["micro_batch"] for row in self.rows if (row["system"], row["variant"]) == (program.system, PLAIN)]
        micro = loops[-1] if program.as_loop and loops else program.micro_batch
        try:
            rate = program.rate(micro, folder, allowed := min(self.time, MOST))
        except TimeoutError:  # it had enough
            self.fail((program.system, program.variant), f"it did not end within {allowed:.0f} s")
            return
        except ValueError as error:
            self.fail((program.system, program.variant), str(error))
            return
        unknown = {"micro_batch": micro, "peak_bytes": None, "syncs_per_update": None}
        own = {"system": program.system, "variant": program.variant, "tokens_per_second": rate}
        self.add(self.number - 1, [{**self.rows[0], **unknown, **own}])

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
        self.book["failures"].append({**self.about(key), "error": why, "commit": self.plan.commit})
        keep(self.book, self.folder)
