"""Makes the tables of what the bench measured, out of results/hardware/<device>/measurements.jsonl.

Ratios are geometric means over rounds in which the two sides took turns (A B B A), with a 95 % t interval over the
rounds' log ratios. No round is dropped.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.grid import Grid, markdown
from conventions.yaml_file import read_yaml
from judge.measurements import FILE, Entry, judged, measured, read
from judge.ratio import Ratio

HARDWARE = "hardware"  # folder of results/
NONE = "No device has been measured yet: `make bench` does it, and `make tables` puts it here.\n"
SHOWN = {"times": "{:.2f}x", "share": "{:.1%}", "seconds": "{:.1f} s", "rate": "{:,.0f}"}


def folder_name(device: str) -> str:
    """Return a device's name as a folder's: nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def hardware_tables(place: Path) -> str:
    """Write all tables of a device in Markdown."""
    return "\n\n".join(f"{grid.title}\n\n{markdown(grid)}" for grid in _of(place)) + "\n"


def summary(places: Sequence[Path]) -> str:
    """Write the front page's tables of every device that was measured."""
    sections = []
    for place in places:
        shown = [grid for grid in _of(place) if grid.title.startswith(("Throughput", "Steps", "Goals"))]
        name = next(line["device"] for line in read(place / FILE))
        head = f"**{name}**; all tables are in `results/{HARDWARE}/{place.name}`."
        sections.append("\n\n".join([head, *(f"{grid.title}\n\n{markdown(grid)}" for grid in shown)]) + "\n")
    return "\n".join(sections) or NONE


def _of(place: Path) -> list[Grid]:
    return grids(read(place / FILE), read_yaml(CONFIGS / "bench.yaml"))


def grids(lines: Sequence[Entry], book: Mapping[str, Any]) -> list[Grid]:
    """Make the tables that have a row, in the order of the parts. lines: of one device's store."""
    rows = measured(lines, book["unit"]["by"])
    device = next((line["device"] for line in reversed(lines) if line["what"] == "call"), "")
    tables = []
    for part, (title, columns) in TABLES.items():
        own = [row for row in rows if row["part"] == part and ("seconds" in row or part == "updates")]
        body = [["" if row.get(key) is None else form(row[key]) for key, form in columns.values()] for row in own]
        if part == "train" and own:
            title += f": {own[-1]['tokens']:,} tokens an update, context {own[-1]['context']}"
        tables += [Grid(f"{title}.", list(columns), body), *([_parts(own)] if part == "train" else [])]
    failed = [[row["what"], row["error"]] for row in rows if row.get("error") and row["part"] != "updates"]
    tables += [*_held_against(rows, device, book), Grid("What does not run.", ["measurement", "why"], failed)]
    return [grid for grid in tables if grid.rows]


def _parts(rows: Sequence[Entry]) -> Grid:
    """Take means over profiled updates, one a round: they add up to the whole."""
    profiled = [row for row in rows if row["profiles"]]
    names = list(profiled[-1]["profiles"][0]) if profiled else []
    body = [[row["model"], row["name"], *(_ms(fmean(each[part] for each in row["profiles"])) for part in names)]
            for row in profiled]  # fmt: skip
    title = "Where a profiled update's time goes, in ms; the parts add up to the whole."
    return Grid(title, ["model", "side", *names], body)


def _held_against(rows: Sequence[Entry], device: str, book: Mapping[str, Any]) -> Iterator[Grid]:
    """Compare with goals and with what others published, on the devices and in the setting that these are about."""
    held = book["held_against"]
    if not any(name in device for name in held["devices"]) or not any("seconds" in row for row in rows):
        return
    body = []
    for goal in book["goals"]:
        best, word = judged(rows, held, goal)
        form, bound = SHOWN[goal["unit"]].format, goal.get("at_least", goal.get("at_most"))
        value = [form(best[goal["value"]]), best["name"]] if best else ["", ""]
        body.append([goal["says"], ("≥ " if "at_least" in goal else "≤ ") + form(bound), *value, word])
    yield Grid("Goals.", ["goal", "bound", "measured", "of", ""], body)
    rate = next((row["tokens_per_second"] for row in rows if row["part"] == "train" and "ratio" in row
                 and row["model"] == held["model"]), None)  # fmt: skip
    marks = [[mark["source"], mark["hardware"], f"{mark['tokens_per_second']:,}", f"{mark['mfu']:.1%}",
              f"{rate / mark['tokens_per_second']:.2f}x" if rate else ""] for mark in book["published"]]  # fmt: skip
    header = ["source", "on", "tokens/s per GPU", "MFU", "halfstep here"]
    yield Grid("Published by others, from their machines.", header, marks)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}"


def _times(value: Ratio, sign: int = 1) -> str:
    """Write a ratio with its interval: `1.23 (1.20 to 1.26)`."""
    if value.low is None or value.high is None:
        return f"{value.value**sign:.3g}"
    low, high = sorted((value.low**sign, value.high**sign))
    return f"{value.value**sign:.3g} ({low:.3g} to {high:.3g})"


def _speed(value: Ratio) -> str:
    return _times(value, -1)


_share, _gigabytes, _loss = "{:.1%}".format, (lambda count: f"{count / 1e9:.2f}"), "{:.3f}".format
# Of each part the title, and the columns: what of a row (judge/measurements.py) stands there, and how.
TABLES: dict[str, tuple[str, dict[str, tuple[str, Callable[[Any], str]]]]] = {
    "updates": ("The first updates of every optimizer, each in a process of its own", {
        "optimizer": ("name", str), "ms an update": ("seconds", _ms), "peak GB": ("peak_bytes", _gigabytes),
        "first loss": ("first_loss", _loss), "last loss": ("loss", _loss), "": ("outcome", str),
        "commit": ("commit", str)}),
    "train": ("Throughput", {
        "model": ("model", str), "side": ("name", str), "tokens/s": ("tokens_per_second", "{:,.0f}".format),
        "beside the next line": ("ratio", _speed), "MFU": ("mfu", _share),
        "of the best product": ("of_products", _share), "sequences a pass": ("micro", str),
        "peak GB": ("peak_bytes", _gigabytes), "rounds": ("rounds", str),
        "commit": ("commit", str)}),
    "step": ("Steps: an optimizer's own, in turns with another's; its usual step, its slowest, and the mean over a "
             "period of refreshes. Floor: memory traffic at fused AdamW's bandwidth and products at the best one's "
             "rate", {
        "model": ("model", str), "optimizer": ("name", str), "usual ms": ("usual", _ms), "slowest ms": ("slowest", _ms),
        "mean ms": ("seconds", _ms), "beside": ("peer", str), "its ms": ("other", _ms),
        "times as long": ("ratio", _times), "floor ms": ("floor", _ms), "of an update": ("share_of_update", _share),
        "state bytes a parameter": ("state_bytes", "{:.1f}".format), "rounds": ("rounds", str),
        "commit": ("commit", str)}),
    "whole": ("Whole updates, curvature passes and hooks in them, in turns with AdamW's", {
        "model": ("model", str), "optimizer": ("name", str), "ms an update": ("seconds", _ms),
        "times AdamW's": ("ratio", _times), "beyond AdamW's": ("beyond", _share), "sequences a pass": ("micro", str),
        "rounds": ("rounds", str), "commit": ("commit", str)}),
    "drift": ("Drift: an update less the same in float64, in 2-norms, from the same weights and gradients", {
        "optimizer": ("name", str), "updates": ("updates", str), "drift of the last update": ("drift", "{:.1e}".format),
        "the largest": ("largest", "{:.1e}".format), "largest entry of Q^T Q - I": ("skew", "{:.1e}".format),
        "commit": ("commit", str)}),
}  # fmt: skip
