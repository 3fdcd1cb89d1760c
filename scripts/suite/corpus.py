"""The corpora of the claims' runs: made, and found to be enough and the same as before, ahead of any training."""

import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import data
from conventions.keywords import bind, in_section
from conventions.sentence import BAD_INPUT, sentence
from data.loader import evaluation_batches
from judge.claims.claim import Claim
from judge.claims.planned import composed
from judge.records import Run

Section = str  # of a config: its data's keys, as JSON


def prepare(claims: Iterable[Claim], scale: str, given: Sequence[str], overrides: Sequence[str]) -> dict[Section, str]:
    """Every corpus of the claims' arms, made where it is missing; by section its fingerprint.

    given: what the command line says of them. overrides: of the runs, data.dir perhaps.
    Raises ValueError, which names the option, where one is not there or too small to be evaluated on.
    """
    found: dict[Section, str] = {}
    for claim in claims:
        for part in claim.scale(scale).parts:
            for arm in claim.scale(scale).arms_of(part):
                values = composed(claim, scale, part, arm)
                if (key := section(values)) in found:
                    continue
                try:
                    found[key] = _prepared(values, overrides)
                except BAD_INPUT as error:
                    whose = "--data" if given else f"{claim.name}, {scale}/{part}"
                    raise ValueError(f"{whose}: {sentence(error).removeprefix('data: ')}") from None
    return found


def section(values: Mapping[str, Any]) -> Section:
    """What decides the tokens; where they are kept does not."""
    return json.dumps({key: value for key, value in values["data"].items() if key != "dir"}, sort_keys=True)


def _prepared(values: Mapping[str, Any], overrides: Sequence[str]) -> str:
    place = dict(each.split("=", 1) for each in overrides if each.startswith("data.dir="))
    wanted = {**values["data"], **({"dir": place["data.dir"]} if place else {})}
    name = wanted["name"]
    keywords = bind(data.find(name), wanted, "data")
    with in_section("data", keywords):
        dataset = data.load(name, **keywords)
    evaluation_batches(dataset.val, values["context"], values["eval"]["tokens"], micro=1)
    return dataset.fingerprint


def refuse_others(runs: Iterable[Run], fingerprints: Mapping[Section, str], device: str | None) -> None:
    """Raises ValueError where there are runs on other tokens than are prepared now, or of another device."""
    for run in runs:
        theirs, now = run.known("data", "fingerprint"), fingerprints.get(section(run.config))
        if now and theirs and theirs != now:
            raise ValueError(
                f"{run.folder} was trained on other tokens than --data prepares now: its files have changed; bring the "
                f"old ones back, or move {run.folder.parent} away"
            )
        name = run.known("device", "name")
        if device and name and name != device:
            raise ValueError(
                f"{run.folder} is of the device {name} and not of {device}, beside which it would be compared: publish "
                f"{run.folder.parent} and move it away, or go on where it was made"
            )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ctrl-C after so many seconds: a corpus is prepared in this process, and goes on from there in the next call."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
