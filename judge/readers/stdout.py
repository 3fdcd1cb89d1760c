"""Reads what nanoGPT, llm.c, nanochat, torchtitan, LitGPT, modded-nanogpt and epfml's benchmark print.

A format is data: regular expressions whose named groups are columns. The group `rest` holds further pairs, `key:value`
or `key=value`. A line that begins as the format's lines do, and then reads as none of them, is broken.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from judge.readers.log import Line, Log, Value, plain_suffix, read_text, source_of

FORMAT = "text"
NUMBER = r"[-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|nan|inf)"
COUNTS = ("step", "total", "iter")  # columns of digits alone
TIMES = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
COLOR = re.compile(r"\x1b\[[0-9;]*m")
PAIR = re.compile(r"(\w+)[:=](\S+)")
MEASURE = re.compile(rf"({NUMBER})(ms|s|m|h)?", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """The lines that a trainer prints."""

    name: str
    begins: str  # where it matches, one of `lines` must match too
    lines: tuple[str, ...]
    meaning: dict[str, str]
    aside: dict[str, str] = field(default_factory=dict)  # further lines, and what they are
    says: tuple[str, ...] = ()  # what to know about its numbers
    finish: Callable[[list[Line], Path], list[Line]] = lambda lines, path: lines


def _litgpt_steps(lines: list[Line], path: Path) -> list[Line]:
    """Turn LitGPT's micro-batches (`iter`) into updates: their number in an update comes from lines that print both."""
    known = [(int(line.values["iter"]), int(line.values["step"])) for line in lines if "step" in line.values]
    per_step = [n for n in range(1, 4097) if known and all(iter // n == step for iter, step in known)]
    exact = dict(known)
    done = []
    for line in lines:
        values = dict(line.values)
        if "step" not in values:
            iteration = int(values["iter"])
            if iteration not in exact and len(per_step) != 1:
                raise ValueError(
                    f"{path}, line {line.number}: after which update iter {iteration} came is not in the log, "
                    "which has no training line that tells iter and step: print those too"
                )
            values["step"] = float(exact.get(iteration, iteration // per_step[0] if per_step else 0))
        done.append(replace(line, values=values))
    return done


FORMATS = (
    Format(
        "modded-nanogpt",
        r"^step:\d",
        (r"^step:(?P<step>\d+)/(?P<total>\d+)(?P<rest>(?: \w+:\S+)+)\s*$",),
        {"step": "step", "total": "total", "val/loss": "val_loss", "train/loss": "train_loss", "seconds": "train_time"},
        aside={r"^tailavg step:\d": "losses of averaged weights (tailavg)"},
    ),
    Format(
        "llm.c",
        r"^s:\d+ (?:tel|trl):",
        (
            rf"^s:(?P<step>\d+) tel:(?P<val_loss>{NUMBER})\s*$",
            rf"^s:(?P<step>\d+) trl:(?P<train_loss>{NUMBER})(?P<rest>(?: \w+:\S+)*)\s*$",
        ),
        {"step": "step", "val/loss": "val_loss", "train/loss": "train_loss", "lr": "lr"},
        aside={r"^s:\d+ eval:": "accuracies on HellaSwag"},
    ),
    Format(
        "nanoGPT",
        r"^(?:step \d+: train|iter \d+: loss)",
        (
            rf"^step (?P<step>\d+): train loss (?P<train_estimate>{NUMBER}), val loss (?P<val_loss>{NUMBER})\s*$",
            rf"^iter (?P<step>\d+): loss (?P<train_loss>{NUMBER}), time (?P<iteration_time>{NUMBER}ms)(?P<more>.*)$",
        ),
        {"step": "step", "val/loss": "val_loss", "train/loss": "train_loss"},
        says=("it prints the time of single iterations only, some with an evaluation in it: its seconds are unknown",),
    ),
    Format(
        "nanochat",
        r"^(?:Step \d+ \| Validation bpb|step \d+/\d+ \()",
        (
            rf"^Step (?P<step>\d+) \| Validation bpb: (?P<val_bpb>{NUMBER})\s*$",
            rf"^step (?P<step>\d+)/(?P<total>\d+) \([^)]*\) \| loss: (?P<train_loss>{NUMBER})(?P<more> \|.*)?$",
        ),
        {"step": "step", "total": "total", "val/bpb": "val_bpb", "train/loss": "train_loss"},
        says=("its train loss is a moving average", "its time leaves out the first steps: its seconds are unknown"),
    ),
    Format(
        "torchtitan",
        r"(?:^|\s)step:\s+\d+\s+loss:",
        (
            rf"validate step:\s+(?P<step>\d+)\s+loss:\s+(?P<val_loss>{NUMBER})(?P<more>\s.*)?$",
            rf"(?<!validate )step:\s+(?P<step>\d+)\s+loss:\s+(?P<train_loss>{NUMBER})(?P<more>\s.*)?$",
        ),
        {"step": "step", "val/loss": "val_loss", "train/loss": "train_loss"},
        says=("it prints no cumulative time: its seconds are unknown",),
    ),
    Format(
        "LitGPT",
        r"^(?:Epoch \d+ \| iter|iter \d+: val)",
        (
            rf"^Epoch \d+ \| iter (?P<iter>\d+) step (?P<step>\d+) \| loss train: (?P<train_loss>{NUMBER}),"
            r"(?P<more>.*)$",
            rf"^iter (?P<iter>\d+): val loss (?P<val_loss>{NUMBER}),(?P<more>.*)$",
        ),
        {"step": "step", "val/loss": "val_loss", "train/loss": "train_loss"},
        aside={r"^Final evaluation": "a final evaluation without its step"},
        says=("it prints the time of single iterations only: its seconds are unknown",),
        finish=_litgpt_steps,
    ),
    Format(
        "llm-optimizer-benchmark",
        r"^(?:Train|>Eval): Iter=\d",
        (
            r"^>Eval: Iter=(?P<step>\d+) \([^)]*\)(?P<rest>(?: \w+=\S+)*) val_loss=(?P<val_loss>\S+)(?P<more> .*)?$",
            r"^Train: Iter=(?P<step>\d+) \([^)]*\)(?P<rest>(?: \w+=\S+)+)\s*$",
        ),
        {"step": "step", "val/loss": "val_loss", "train/loss": "train_loss", "lr": "lr"},
        says=("it prints the time of single iterations only: its seconds are unknown",),
    ),
)


def recognises(path: Path) -> bool:
    """Return whether a text file has lines of one of the formats."""
    return path.is_file() and plain_suffix(path) not in (".json",) and bool(_format_of(read_lines(path)))


def read(path: Path) -> list[Log]:
    """Return one log; ValueError names the line that is broken."""
    texts = read_lines(path)
    format = _format_of(texts)
    assert format
    begins, patterns = re.compile(format.begins), [re.compile(each) for each in format.lines]
    aside = {re.compile(each): 0 for each in format.aside}
    lines, notes, cut = [], list(format.says), ""
    for number, text in enumerate(texts, 1):
        for each in aside:
            aside[each] += bool(each.search(text))
        if not begins.search(text):
            continue
        parsed = next((match for each in patterns if (match := each.search(text))), None)
        if parsed:
            values = _values(parsed)
            if long := [key for key in COUNTS if values.get(key) == math.inf]:
                raise ValueError(f"{path}, line {number}: {long[0]} has too many digits; mend or cut it there")
            lines.append(Line(number, values))
        elif number == len(texts):  # what follows the last newline: a kill tore it
            cut = f"its last line, {number}, is torn"
        else:
            raise ValueError(f"{path}, line {number}, is no line of {format.name}: {text[:80]!r}; mend or cut it there")
    for (_, count), what in zip(aside.items(), format.aside.values(), strict=True):
        if count:
            notes.append(f"{count} lines are {what}: left out")
    lines = format.finish(lines, path)
    return [
        Log(str(path), source_of(path, format.name), lines, dict(format.meaning), {}, tuple(notes), cut, remarks=True)
    ]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text without colours; of a line that a progress bar wrote over, what was left standing."""
    text = COLOR.sub("", read_text(path, errors="replace"))
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]


def _format_of(texts: Sequence[str]) -> Format | None:
    """Return the format with the most lines that begin as its own; None if no line does."""
    counts = {each.name: sum(map(bool, map(re.compile(each.begins).search, texts))) for each in FORMATS}
    best = max(FORMATS, key=lambda each: counts[each.name])
    return best if counts[best.name] else None


def _values(match: re.Match[str]) -> dict[str, Value]:
    """Return the columns of a line; a time becomes seconds, what is no number stays a word."""
    groups = {key: text for key, text in match.groupdict().items() if text is not None}
    pairs = dict(PAIR.findall(groups.pop("rest", "")))
    groups.pop("more", None)
    return {key: _value(text) for key, text in {**groups, **pairs}.items()}


def _value(text: str) -> Value:
    measure = MEASURE.fullmatch(text)
    if not measure:
        return text
    return float(measure[1].replace(",", "")) * TIMES[(measure[2] or "s").lower()]
