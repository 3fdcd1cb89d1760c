"""Turns foreign runs into run folders that judge.records reads: which arm, seed and length each is, and what is known.

What nobody knows stays out: FLOPs, tokens, schedule and device are unknown unless they were given. A folder's bytes
depend on its sources and on what was asked for alone, so that the same command makes the same folders again.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conventions import atomic
from conventions.config_keys import flatten
from conventions.run_format import SCHEMA
from conventions.sentence import nearest
from conventions.yaml_file import parse_yaml, read_yaml, yaml_text
from judge.readers.log import Source
from judge.readers.series import ForeignRun, cut
from judge.readers.table import read_table, recognises

FACT = re.compile(r"\{([A-Za-z][^{}]*)\}")
UNKNOWN = ("batch.tokens", "model", "data", "schedule")  # keys of a config that foreign runs seldom tell
LAST = "last"  # for `at`: the last evaluation, wherever it is


@dataclass(frozen=True)
class Wish:
    """A person's description of runs.

    A pattern is `=text`, a text with {facts}, or a regular expression on the name.
    """

    study: str
    arm: str
    seed: str | None = None  # None: numbered by name within arm and length
    at: str | None = None  # a step, `last` or {fact}; None: the end of the schedule
    settings: Mapping[str, str] = field(default_factory=dict)  # dotted config key: text with {facts}
    where: Mapping[str, str] = field(default_factory=dict)  # fact: the value that a run must have to be taken
    device: str | None = None
    weights: str | None = None  # what the last losses are of, where it is not the trained weights
    repository: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Adopted:
    """A foreign run with its place in a study."""

    run: ForeignRun
    arm: str
    seed: int
    steps: int
    status: str
    error: str | None
    config: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def folder(self) -> str:
        """Return the name of its folder; the hash is over everything that the folder holds."""
        own = json.dumps([self.config, self.manifest], sort_keys=True)
        slug = re.sub(r"[^A-Za-z0-9.]+", "_", self.arm).strip("_")[:60]
        return f"{slug}-T{self.steps}-s{self.seed}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"

    @property
    def loss(self) -> float | None:
        """Return the run's final validation loss, nats per token; None if it did not finish."""
        return self.run.evaluations[-1]["val/loss"] if self.status == "finished" else None


def described(runs: Sequence[ForeignRun], table: Path, column: str) -> tuple[list[dict[str, str]], Source]:
    """Find each run's row in a table, by its name in `column` ({} where there is none), and the table's checksum."""
    if not recognises(table):
        raise ValueError(f"{table} is no table: give a CSV, JSON lines or parquet, as --about TABLE:COLUMN")
    by_name: dict[str, dict[str, str]] = {}
    for line in read_table(table):
        if column not in line.values:
            raise ValueError(f"{table}, line {line.number}, has no {column}: {nearest(column, list(line.values))}")
        by_name[_text(line.values[column])] = {key: _text(value) for key, value in line.values.items()}
    rows = [next((by_name[name] for name in _names(run) if name in by_name), {}) for run in runs]
    return rows, Source(str(table), "table about runs", hashlib.sha256(table.read_bytes()).hexdigest())


def adopt(
    runs: Sequence[ForeignRun], wish: Wish, about: Sequence[Mapping[str, str]] = (), sources: Sequence[Source] = ()
) -> tuple[list[Adopted], list[tuple[str, str]]]:
    """Return the runs with arm, seed and length, and (name, why) of each that was left out.

    about: facts on each run from elsewhere. sources: further files that what is written rests on.
    Raises ValueError where a pattern finds nothing, or two runs have one arm, seed and length.
    """
    adopted: list[Adopted] = []
    left: list[tuple[str, str]] = []
    counts: dict[tuple[str, str, int], int] = {}
    taken: dict[tuple[str, str, int, int], str] = {}
    known = [{**_facts(run), **more} for run, more in zip(runs, about or [{}] * len(runs), strict=True)]
    _check([*wish.settings.values(), wish.device or ""], {key for facts in known for key in facts})
    for run, facts in zip(runs, known, strict=True):
        unlike = [key for key, value in wish.where.items() if facts.get(key, "") != value]
        if unlike:
            left.append((run.name, f"its {unlike[0]} is {facts.get(unlike[0], '')!r}"))
            continue
        arm = _value_of(wish.arm, run, facts, "--arm")
        run, steps, status, error = _ended(run, _at(wish.at, run, facts))
        place = _known(wish.settings.get("model", ""), run, facts), arm, steps
        if wish.seed is None:
            seed = counts[place] = counts.get(place, -1) + 1
        else:
            seed = _whole(_value_of(wish.seed, run, facts, "--seed"), f"the seed of {run.name}")
        if (*place, seed) in taken:
            twice = f"{taken[*place, seed]} and {run.name} are both {arm} of {steps} updates with seed {seed}"
            raise ValueError(f"{twice}: give patterns (--arm, --seed) that tell them apart")
        taken[*place, seed] = run.name
        config, manifest = _written(run, wish, facts, arm, seed, steps, status, error, sources)
        adopted.append(Adopted(run, arm, seed, steps, status, error, config, manifest))
    if not adopted:
        raise ValueError(f"no run is left to adopt: {': '.join(left[0]) if left else 'the sources hold none'}")
    return adopted, left


def write(adopted: Sequence[Adopted], study: Path) -> int:
    """Write run folders below `study`; return how many are new. None is written if an arm, seed and length is taken."""
    known: dict[tuple[Any, ...], Path] = {}
    for path in sorted(study.glob("*/config.yaml")):
        known[_key(read_yaml(path, "restore it, or move the folder away"))] = path.parent
    for each in adopted:
        other = known.get(_key(each.config))
        if other and other.name != each.folder:
            raise ValueError(
                f"{each.run.name} would stand beside {other}, another run of the same arm, seed and length: "
                "give another --study, or move that folder away"
            )
    new = [each for each in adopted if not (study / each.folder / "manifest.json").exists()]
    for each in new:
        place = study / each.folder
        rows = [json.dumps({"schema": SCHEMA, **_plain(row)}) for row in each.run.rows]
        atomic.write_text(place / "metrics.jsonl", "\n".join(rows) + "\n")
        atomic.write_text(place / "config.yaml", yaml_text(each.config))
        atomic.write_text(place / "manifest.json", json.dumps({"name": each.folder, **each.manifest}, indent=1) + "\n")
    return len(new)


def _written(
    run: ForeignRun, wish: Wish, facts: Mapping[str, str], arm: str, seed: int, steps: int,
    status: str, error: str | None, sources: Sequence[Source],
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Return the config, which holds what is known, and the manifest, which says from where."""
    config: dict[str, Any] = {"steps": steps, "seed": seed, "optimizer": {"name": arm}}
    for key, text in wish.settings.items():
        if all(fact in facts for fact in FACT.findall(text)):  # else it is unknown
            _put(config, key, parse_yaml(_filled(text, facts, "--set", run), f"--set {key}={text}"))
    known = wish.device and all(fact in facts for fact in FACT.findall(wish.device))
    device = _filled(wish.device, facts, "--device", run) if wish.device and known else None
    tokens = (config.get("batch") or {}).get("tokens")
    unknown = [key for key in UNKNOWN if key not in flatten(config) and key not in config]
    unknown += ["seed (numbered in order of names)"] * (wish.seed is None) + ["device"] * (not device)
    unknown += ["planned length"] * (run.total is None) + ["FLOPs"]
    unknown += ["seconds"] * (not any("seconds/total" in row for row in run.rows))
    origin = {
        "format": run.source.format,
        "sources": [
            {"file": run.source.path, "sha256": run.source.sha256, "lines": list(run.lines)},
            *({"file": each.path, "sha256": each.sha256} for each in sources),
        ],
        **{"repository": wish.repository, "commit": wish.commit, "run": run.name, "map": run.meaning},
        **{"planned_steps": run.total, "weights": wish.weights or "as logged", "config": run.config},
        **{"unknown": unknown, "notes": list(run.notes)},
    }
    manifest: dict[str, Any] = {"schema": SCHEMA, "study": wish.study, "status": status, "error": error}
    if device:
        manifest["device"] = {"name": device}
    if isinstance(tokens, int):
        manifest["tokens_per_step"] = tokens
    return config, {**manifest, "origin": origin}


def _check(texts: Sequence[str], known: set[str]) -> None:
    """Raise ValueError where a text names a fact that is known of no run."""
    for key in [key for text in texts for key in FACT.findall(text)]:
        if key not in known:
            raise ValueError(f"nothing is known of {{{key}}} for any run; {nearest(key, known)}")


def _ended(run: ForeignRun, at: int | None) -> tuple[ForeignRun, int, str, str | None]:
    """Return the run, its length, its status and, where it has no end, why."""
    if at is not None:
        run = cut(run, at)
    total = run.total if at is None else at
    if run.diverged:
        step = int(run.rows[-1]["step"])
        return run, total or step, "diverged", f"the loss is not finite at step {step}"
    if total is not None and run.last < total:
        why = f"its log ends at step {run.last} of {total}: --at takes a run at a stated step, --at last at its end"
        return run, total, "failed", why
    if total is None and run.cut:
        return run, run.last, "failed", f"{run.cut}: --at takes a run at a stated step, --at last at its end"
    if run.last < run.rows[-1]["step"]:
        run = replace(run, rows=[row for row in run.rows if row["step"] <= run.last])
    return run, run.last, "finished", None


def _at(text: str | None, run: ForeignRun, facts: Mapping[str, str]) -> int | None:
    if text is None:
        return None
    return run.last if text == LAST else _whole(_filled(text, facts, "--at", run), f"the step of {run.name} (--at)")


def _facts(run: ForeignRun) -> dict[str, str]:
    """Return the facts that patterns may name: the source's config, the run's name, file and folder."""
    path = Path(run.source.path)
    own = {"name": run.name, "file": path.name, "stem": path.name.partition(".")[0], "folder": path.parent.name}
    return {**{key: _text(value) for key, value in flatten(run.config).items() if value is not None}, **own}


def _names(run: ForeignRun) -> list[str]:
    path = Path(run.source.path)
    return [run.name, run.source.path, path.name, path.name.partition(".")[0]]


def _value_of(pattern: str, run: ForeignRun, facts: Mapping[str, str], option: str) -> str:
    """Return the text that a pattern gives for a run. Raises ValueError if it gives none."""
    if pattern.startswith("="):
        return pattern[1:]
    if FACT.search(pattern):
        return _filled(pattern, facts, option, run)
    try:
        match = re.search(pattern, run.name)
    except re.error as error:
        raise ValueError(f"{option} {pattern} is no regular expression ({error})") from None
    if not match:
        raise ValueError(f"{option} {pattern} is not in the name {run.name}: widen it, or leave that run out")
    return next((group for group in match.groups() if group is not None), match[0])


def _filled(text: str, facts: Mapping[str, str], option: str, run: ForeignRun) -> str:
    for key in FACT.findall(text):
        if key not in facts:
            raise ValueError(f"{option} {text}: nothing is known of {key!r} for {run.name}; {nearest(key, facts)}")
    return FACT.sub(lambda match: facts[match[1]], text)


def _known(text: str, run: ForeignRun, facts: Mapping[str, str]) -> str:
    """Return a setting's text for a run, empty where one of its facts is not known of the run."""
    return _filled(text, facts, "--set", run) if all(key in facts for key in FACT.findall(text)) else ""


def _whole(text: str, what: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value) or value < 0:
        raise ValueError(f"{what} is {text!r}, which is no whole number")
    return int(value)


def _text(value: Any) -> str:
    return f"{value:.17g}" if isinstance(value, float) else str(value)


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *way, last = key.split(".")
    for part in way:
        config = config.setdefault(part, {})
        if not isinstance(config, dict):
            raise ValueError(f"--set {key}: {part} is a value already, and not a group of keys")
    config[last] = value


def _key(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((key, repr(value)) for key, value in flatten(config).items()))


def _plain(row: Mapping[str, float]) -> dict[str, float | int | None]:
    """Return a row as JSON holds it: the step whole, and null for what is not finite."""
    kept: dict[str, float | int | None] = {
        key: value if math.isfinite(value) else None for key, value in row.items() if key != "step"
    }
    return {"step": int(row["step"]), **kept}
