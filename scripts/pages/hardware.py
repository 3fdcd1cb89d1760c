"""What the bench measured, as tables: out of results/hardware/<device>/measurements.jsonl.

Ratios are geometric means over rounds in which the two sides took turns (A B B A), with a 95 % t interval over the
rounds' log ratios. No round is dropped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from conventions.config_keys import CONFIGS
from scripts.bench.store import FILE, Record, read, records
from scripts.pages.grid import Grid, markdown
from scripts.pages.ratio import Ratio, ratio

HARDWARE = "hardware"  # folder of results/
NONE = "No device has been measured yet: `make bench` does it, and `make tables` puts it here.\n"
ADAMW_BYTES = 28  # that fused AdamW moves per parameter: the gradient read, the weight and two moments read and written
SHOWN = {"times": "{:.2f}x", "share": "{:.1%}", "seconds": "{:.1f} s", "rate": "{:,.0f}"}
Row = dict[str, Any]


def folder_name(device: str) -> str:
    """A device's name as a folder's: nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def hardware_tables(place: Path) -> str:
    """All tables of a device, in Markdown."""
    return "\n\n".join(f"{grid.title}\n\n{markdown(grid)}" for grid in _of(place)) + "\n"


def summary(places: Sequence[Path]) -> str:
    """The front page's tables of every device that was measured."""
    found = []
    for place in places:
        shown = [grid for grid in _of(place) if grid.title.startswith(("Throughput", "Steps", "Goals"))]
        name = next(row["device"] for row in read(place / FILE))
        head = f"**{name}**; all tables are in `results/{HARDWARE}/{place.name}`."
        found.append("\n\n".join([head, *(f"{grid.title}\n\n{markdown(grid)}" for grid in shown)]) + "\n")
    return "\n".join(found) or NONE


def _of(place: Path) -> list[Grid]:
    return grids(read(place / FILE), yaml.safe_load((CONFIGS / "bench.yaml").read_text(encoding="utf-8")))


def grids(rows: Sequence[Row], book: Mapping[str, Any]) -> list[Grid]:
    """The tables that have a line, in the order of the parts.

    rows: of one device's store.
    """
    found = Lines(rows, book["unit"]["by"])
    tables = [found.updates(), found.throughput(), found.parts(), found.steps(), found.whole(),
              found.drift(), *held_against(found, book), found.failures()]  # fmt: skip
    return [grid for grid in tables if grid.rows]


class Lines:
    """The store's records, each with what tables and goals need of it. unit: what steps are held beside."""

    def __init__(self, rows: Sequence[Row], unit: str) -> None:
        self.records, self.unit = records(rows), unit
        self.measured = [record for record in self.records if record.rounds]
        calls = [row for row in rows if row["what"] == "call"]
        self.device = calls[-1]["device"] if calls else ""
        self.peak = calls[-1]["facts"].get("peak_flops") if calls else None
        self.products: dict[str, float] = {}
        for record in self.of("products"):
            self.products = self.side(record, 0)["last"]["flops_per_second"]

    def of(self, part: str) -> list[Record]:
        return [record for record in self.measured if record.head["part"] == part]

    def side(self, record: Record, number: int) -> Row:
        """A line on a side of a record."""
        names, other = record.head["sides"], 1 - number
        seconds = [[[turn["seconds"] for turn in row] for row in record.turns(side)] for side in range(len(names))]
        turns = [turn for row in record.turns(number) for turn in row]
        beside = ratio(seconds[number], seconds[other]) if len(names) > 1 else None
        facts = record.rounds[max(record.rounds)]["facts"][number]
        return {
            **record.head["about"], "part": record.head["part"], "name": names[number],
            "side": names[number] if number == 0 else None, "peer": names[other] if beside else None,
            "seconds": median(turn["seconds"] for turn in turns), "ratio": beside, "rounds": len(record.rounds),
            "facts": facts, "turns": turns, "last": turns[-1], "commit": str(record.commit or "unknown")[:12],
        }  # fmt: skip

    def updates(self) -> Grid:
        rows = []
        for record in [each for each in self.records if each.head.get("part") == "updates"]:
            name = record.head["sides"][0]
            if not record.rounds:
                rows.append([name, "", "", "", record.error or "", str(record.commit)[:12]])
                continue
            one = self.side(record, 0)
            first, last = one["facts"]["first_loss"], one["last"]["loss"]
            falls = "falls" if last < first else "**does not fall**"
            rows.append([name, _ms(one["seconds"]), _gigabytes(one["last"]), f"{first:.3f} to {last:.3f}", falls,
                         one["commit"]])  # fmt: skip
        header = ["optimizer", "ms an update", "peak GB", "loss", "", "commit"]
        return Grid("The first updates of every optimizer, each in a process of its own.", header, rows)

    def rates(self) -> Iterator[Row]:
        """Yield the lines of throughput: tokens per second, and the shares of the device's rates."""
        for record in self.of("train"):
            for number in range(len(record.head["sides"])):
                one = self.side(record, number)
                rate = one["tokens"] / one["seconds"]
                flops = rate * record.rounds[0]["facts"][0]["flops_per_token"]  # a peer has the same shape
                best = max(self.products.values(), default=None)
                yield {**one, "tokens_per_second": rate, "mfu": flops / self.peak if self.peak and flops else None,
                       "of_products": flops / best if best and flops else None,
                       "speed": 1 / one["ratio"].value if one["ratio"] else None}  # fmt: skip

    def throughput(self) -> Grid:
        rows = [
            [one["model"], one["name"], f"{one['tokens_per_second']:,.0f}", _speed(one["ratio"]) if one["side"] else "",
             _share(one["mfu"]), _share(one["of_products"]), str(one["facts"].get("micro", "")),
             _gigabytes(one["last"]), str(one["rounds"]), one["commit"]]
            for one in self.rates()
        ]  # fmt: skip
        header = ["model", "side", "tokens/s", "beside the next line", "MFU", "of the best product", "sequences a pass",
                  "peak GB", "rounds", "commit"]  # fmt: skip
        about = [each.head["about"] for each in self.of("train")][-1:]
        setting = "".join(f": {a['tokens']:,} tokens an update, context {a['context']}" for a in about)
        return Grid(f"Throughput{setting}.", header, rows)

    def parts(self) -> Grid:
        """Means over profiled updates, one a round: they add up to the whole."""
        rows, names = [], []
        for record in self.of("train"):
            for number, name in enumerate(record.head["sides"]):
                turns = [turn for row in record.turns(number) for turn in row if "parts" in turn]
                if turns:
                    names = list(turns[0]["parts"])
                    means = [fmean(turn["parts"][part] for turn in turns) for part in names]
                    rows.append([record.head["about"]["model"], name, *map(_ms, means)])
        return Grid(
            "Where a profiled update's time goes, in ms; the parts add up to the whole.",
            ["model", "side", *names],
            rows,
        )

    def of_steps(self) -> Iterator[Row]:
        """Yield the lines of an optimizer's own steps: beside fused AdamW's, the floor, and a whole update."""
        whole = {one["model"]: one["seconds"] for one in self.rates() if one["side"] and "peer" in one}
        whole |= {one["model"]: one["seconds"] for record in self.of("whole") for one in [self.side(record, 1)]}
        for record in self.of("step"):
            one, other = self.side(record, 0), self.side(record, 1)
            least, floor = one["facts"]["least"], None
            if least and one["peer"] == self.unit and set(least["flops"]) <= set(self.products):
                bandwidth = ADAMW_BYTES * one["facts"]["parameters"] / other["seconds"]
                products = sum(flops / self.products[kind] for kind, flops in least["flops"].items())
                floor = least["moved"] / bandwidth + products
            update = whole.get(one["model"])
            usual, slowest = (median(turn[key] for turn in one["turns"]) for key in ("usual", "slowest"))
            yield {**one["facts"]["keywords"], **one, "times": one["ratio"].value if one["peer"] == self.unit else None,
                   "floor": floor, "usual": usual, "slowest": slowest, "other": other["seconds"],
                   "share_of_update": one["seconds"] / update if update else None,
                   "worst_update": (update + slowest) / (update + usual) if update else None}  # fmt: skip

    def steps(self) -> Grid:
        rows = [
            [one["model"], one["name"], *(_ms(one[key]) for key in ("usual", "slowest", "seconds")), one["peer"],
             _ms(one["other"]), _times(one["ratio"]), _ms(one["floor"]), _share(one["share_of_update"]),
             f"{one['facts']['state_bytes']:.1f}", str(one["rounds"]), one["commit"]]
            for one in self.of_steps()
        ]  # fmt: skip
        header = ["model", "optimizer", "usual ms", "slowest ms", "mean ms", "beside", "its ms", "times as long",
                  "floor ms", "of an update", "state bytes a parameter", "rounds", "commit"]  # fmt: skip
        title = ("Steps: an optimizer's own, in turns with another's; its usual step, its slowest, and the mean over a "
                 "period of refreshes. Floor: memory traffic at fused AdamW's bandwidth and products at the best "
                 "one's rate.")  # fmt: skip
        return Grid(title, header, rows)

    def of_whole(self) -> Iterator[Row]:
        for record in self.of("whole"):
            one = self.side(record, 0)
            yield {**one, "beyond": one["ratio"].value - 1}

    def whole(self) -> Grid:
        rows = [[one["model"], one["name"], _ms(one["seconds"]), _times(one["ratio"]), f"{one['beyond']:.1%}",
                 str(one["facts"]["micro"]), str(one["rounds"]), one["commit"]] for one in self.of_whole()]  # fmt: skip
        header = ["model", "optimizer", "ms an update", "times AdamW's", "beyond AdamW's", "sequences a pass", "rounds",
                  "commit"]  # fmt: skip
        return Grid("Whole updates, curvature passes and hooks in them, in turns with AdamW's.", header, rows)

    def drift(self) -> Grid:
        rows = []
        for record in self.of("drift"):
            one = self.side(record, 0)["last"]
            skew = "" if one["skew"] is None else f"{one['skew']:.1e}"
            rows.append([record.head["sides"][0], str(one["updates"]), f"{one['drift']:.1e}", f"{one['largest']:.1e}",
                         skew, str(record.commit or "unknown")[:12]])  # fmt: skip
        header = [
            "optimizer",
            "updates",
            "drift of the last update",
            "the largest",
            "largest entry of Q^T Q - I",
            "commit",
        ]
        return Grid(
            "Drift: an update less the same in float64, in 2-norms, from the same weights and gradients.", header, rows
        )

    def failures(self) -> Grid:
        rows = [[each.what, each.error or ""] for each in self.records if each.error and each.head["part"] != "updates"]
        return Grid("What does not run.", ["measurement", "why"], rows)


def held_against(lines: Lines, book: Mapping[str, Any]) -> Iterator[Grid]:
    """Goals and what others published, on the devices and in the setting that these are about."""
    held = book["held_against"]
    if not any(name in lines.device for name in held["devices"]):
        return
    candidates = [*lines.rates(), *lines.of_steps(), *lines.of_whole()]
    same = [
        one for one in candidates if all(one.get(k, held[k]) == held[k] for k in ("tokens", "context", "vocabulary"))
    ]
    if not same:
        return
    rows = []
    for goal in book["goals"]:
        mine = [one for one in same if goal["of"].items() <= one.items() and one.get(goal["value"]) is not None]
        sign, bound = (1, goal["at_least"]) if "at_least" in goal else (-1, goal["at_most"])
        best = max(mine, key=lambda one: sign * one[goal["value"]], default=None)
        form, value = SHOWN[goal["unit"]], best and best[goal["value"]]
        short = None if value is None else sign * (bound - value) / bound
        judged = "not measured" if short is None else "met" if short <= 0 else f"missed by {short:.1%}"
        rows.append([goal["says"], ("≥ " if sign > 0 else "≤ ") + form.format(bound),
                     "" if value is None else form.format(value), best["name"] if best else "", judged])  # fmt: skip
    yield Grid("Goals.", ["goal", "bound", "measured", "of", ""], rows)
    first = held["model"]
    rate = next((one["tokens_per_second"] for one in lines.rates() if one["model"] == first and one["side"]), None)
    marks = [[mark["source"], mark["hardware"], f"{mark['tokens_per_second']:,}", _share(mark["mfu"]),
              f"{rate / mark['tokens_per_second']:.2f}x" if rate else ""] for mark in book["published"]]  # fmt: skip
    yield Grid(
        "Published by others, from their machines.", ["source", "on", "tokens/s per GPU", "MFU", "halfstep here"], marks
    )


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:,.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _gigabytes(turn: Row) -> str:
    return f"{turn['peak_bytes'] / 1e9:.2f}" if turn.get("peak_bytes") else ""


def _times(value: Ratio | None, sign: int = 1) -> str:
    """`1.23 (1.20 to 1.26)`."""
    if value is None:
        return ""
    if value.low is None or value.high is None:
        return f"{value.value**sign:.3g}"
    low, high = sorted((value.low**sign, value.high**sign))
    return f"{value.value**sign:.3g} ({low:.3g} to {high:.3g})"


def _speed(value: Ratio | None) -> str:
    return _times(value, -1)
