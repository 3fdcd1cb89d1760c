"""Reads the bench's store, measurements.jsonl, and says what its rounds come to beside goals and published marks.

A line of the file is a call of the bench, a round of a measurement, a failure, or the size of a pass that fits the
memory; judge/measurement_store.py adds them. Here a measurement becomes a row of numbers for each of its sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from conventions.json_text import parse_json
from judge.ratio import ratio

Entry = dict[str, Any]
FILE = "measurements.jsonl"
ADAMW_BYTES = 28  # that fused AdamW moves per parameter: the gradient read, the weight and two moments read and written


@dataclass
class Record:
    """All lines of one measurement at one commit.

    Attributes:
        rounds: lines by number: `facts` has an answer for each side, `turns` a list of them.
        error: why it does not run.
        sizes: sequences per pass, by side, where beside the other one fewer fit the memory.
        head: part, about, and the sides' names.
    """

    what: str
    commit: str | None
    rounds: dict[int, Entry] = field(default_factory=dict)
    error: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    head: Entry = field(default_factory=dict)

    def add(self, line: Entry) -> None:
        self.head |= {key: line[key] for key in ("part", "about", "sides")}
        self.sizes |= line.get("sizes_fit", {})
        self.error = line.get("error", self.error)
        if line["round"] is not None:
            self.rounds[line["round"]] = line

    def turns(self, side: int) -> list[list[Entry]]:
        """Return the side's answers, by round."""
        return [self.rounds[number]["turns"][side] for number in sorted(self.rounds)]


def read(path: Path) -> list[Entry]:
    """Return the lines of a store; none where there is no file. A last line that a kill has torn is left out.

    Raises ValueError for a line that is none of the bench's.
    """
    try:
        lines = [parse_json(line) for line in path.read_bytes().split(b"\n")[:-1]]
        assert all(line["what"] and line["device"] for line in lines)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path} has a line that is none of the bench's: move it away, or give --output") from None
    return lines


def records(lines: Sequence[Entry]) -> list[Record]:
    """Return a record for each measurement, of the commit that measured it last, in the order in which they began."""
    by_name: dict[str, Record] = {}
    for line in (line for line in lines if line["what"] != "call"):
        if line["what"] not in by_name or by_name[line["what"]].commit != line["commit"]:
            by_name[line["what"]] = Record(line["what"], line["commit"])
        by_name[line["what"]].add(line)
    return list(by_name.values())


def measured(lines: Sequence[Entry], unit: str) -> list[Entry]:
    """Return a row for the first side of each measurement, of throughput and its products for both sides.

    unit: the name of the side that an optimizer's own steps are held beside. Besides what the sides answered, a row has

        part, name, peer, seconds, other    of an update or step; `other` and `ratio` are the peer's, of the first side
        tokens_per_second, mfu, of_products, speed    of throughput: shares of the device's peak and best product
        usual, slowest, floor, times, share_of_update, worst_update    of an optimizer's own steps
        beyond                              of whole updates: what they take beyond the peer's, as a share
        outcome                             of the first updates: whether the loss falls
        error                               why it does not run; then there are no numbers
    """
    rows = [
        _row(record, side)
        for record in records(lines)
        for side in range(len(record.head["sides"]) if record.rounds and record.head["part"] == "train" else 1)
    ]
    calls = [line for line in lines if line["what"] == "call"]
    peak = calls[-1]["facts"].get("peak_flops") if calls else None
    products: dict[str, float] = next((row["flops_per_second"] for row in rows if "flops_per_second" in row), {})
    best = max(products.values(), default=None)
    update = {row["model"]: row["seconds"] for row in rows if row["part"] == "train" and "ratio" in row}
    update |= {row["model"]: row["other"] for row in rows if row["part"] == "whole" and "other" in row}
    for row in (row for row in rows if "seconds" in row):
        if row["part"] == "train":
            rate = row["tokens"] / row["seconds"]
            row |= {"tokens_per_second": rate, **_shares(rate * row["flops_per_token"], peak, best)}
            row |= {"speed": 1 / row["ratio"].value} if row.get("ratio") else {}
        elif row["part"] == "updates":
            row["outcome"] = "falls" if row["loss"] < row["first_loss"] else "**does not fall**"
        elif row["part"] == "whole":
            row["beyond"] = row["ratio"].value - 1
        elif row["part"] == "step":
            least, whole = row.get("least"), update.get(row["model"])
            if row["peer"] == unit:
                row["times"] = row["ratio"].value
                if least and set(least["flops"]) <= set(products):
                    bandwidth = ADAMW_BYTES * row["parameters"] / row["other"]
                    row["floor"] = least["moved"] / bandwidth
                    row["floor"] += sum(flops / products[kind] for kind, flops in least["flops"].items())
            if whole:
                row["share_of_update"] = row["seconds"] / whole
                row["worst_update"] = (whole + row["slowest"]) / (whole + row["usual"])
    return rows


def judged(rows: Sequence[Entry], held: Mapping[str, Any], goal: Mapping[str, Any]) -> tuple[Entry | None, str]:
    """Return the row that comes nearest to a goal in the setting that it is held in, and a word on how it does."""
    mine = [row for row in rows if all(row.get(k, held[k]) == held[k] for k in ("tokens", "context", "vocabulary"))
            and goal["of"].items() <= row.items() and row.get(goal["value"]) is not None]  # fmt: skip
    sign, bound = (1, goal["at_least"]) if "at_least" in goal else (-1, goal["at_most"])
    if not mine:
        return None, "not measured"
    best = max(mine, key=lambda row: sign * row[goal["value"]])
    short = sign * (bound - best[goal["value"]]) / bound
    return best, "met" if short <= 0 else f"missed by {short:.1%}"


def _row(record: Record, side: int) -> Entry:
    names = record.head["sides"]
    own = {"part": record.head["part"], "name": names[side], "commit": str(record.commit or "unknown")[:12]}
    if not record.rounds:
        return {**record.head["about"], **own, "error": record.error, "what": record.what, "outcome": record.error}
    facts = record.rounds[max(record.rounds)]["facts"][side]
    flops = record.rounds[min(record.rounds)]["facts"][0].get("flops_per_token")  # a peer has the same shape
    seconds = [[[turn["seconds"] for turn in turns] for turns in record.turns(each)] for each in range(len(names))]
    turns = [turn for each in record.turns(side) for turn in each]
    row = {
        **{**facts.get("keywords", {}), **facts, "flops_per_token": flops, **turns[-1], **record.head["about"], **own},
        **{"rounds": len(record.rounds), "profiles": [turn["parts"] for turn in turns if "parts" in turn]},
        **{key: median(turn[key] for turn in turns) for key in ("seconds", "usual", "slowest") if key in turns[0]},
    }
    if side == 0:
        row |= {"side": names[0], "ratio": ratio(*seconds) if names[1:] else None, "error": record.error}
        row["what"] = record.what
    if names[1:]:
        row |= {"peer": names[1 - side], "other": median(each for turns in seconds[1 - side] for each in turns)}
    return row


def _shares(flops: float, *rates: float | None) -> dict[str, float | None]:
    return {key: flops / rate if rate and flops else None
            for key, rate in zip(("mfu", "of_products"), rates, strict=True)}  # fmt: skip
