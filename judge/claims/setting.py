"""Says what a claim was measured on: the model, corpus, device and length of each part of its runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from conventions.quantity import short
from judge.claims.claim_file import SCALES
from judge.claims.evidence import PUBLIC
from judge.claims.verdict import Verdict
from judge.public.runs import CHINCHILLA
from judge.records import Run
from judge.timing import device_of


def by_claim(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Group the verdicts on one sentence, public runs and the largest scale first; claims with public runs lead.

    One claim may have files of several devices.
    """
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for each in sorted(verdicts, key=lambda each: (PUBLIC, *SCALES).index(each.scale.name)):
        groups.setdefault((each.claim.sentence, each.claim.source), []).append(each)
    return sorted(groups.values(), key=lambda each: (not each[0].public, each[0].claim.name))


def scale_name(verdict: Verdict) -> str:
    """Write the name of the scale: `small`, or `small (rates)` of the file <claim>.rates.yaml."""
    _, _, word = verdict.claim.name.partition(".")
    return verdict.scale.name + f" ({word})" * bool(word)


def settings(verdict: Verdict) -> list[str]:
    """Return a sentence on the model, corpus, device and length of each part, or one where all parts are alike."""
    parts_of: dict[str, list[str]] = {}
    for part in verdict.parts:
        runs = [run for arm in verdict.arms[part].values() for run in arm.runs]
        if not runs:
            continue
        models, corpora = _listed(map(_model, runs)), _listed(map(_corpus, runs))
        batches = {run.config["batch"]["tokens"] for run in runs}
        sizes = {total for run in runs if (total := run.known("parameters", "total"))}
        length = verdict.scale.length(part)
        each = _listed(f"{batch:,}" for batch in sorted(batches))
        words = f"{models} on {corpora}, T = {length:,} updates of {each} tokens"
        if len(batches) == len(sizes) == 1:
            ratio = length * batches.pop() / sizes.pop()
            words += f", {short(ratio)} tokens per parameter ({short(ratio / CHINCHILLA)} of Chinchilla's {CHINCHILLA})"
        parts_of.setdefault(f"{words}, {_listed(device_of(run) for run in runs)}", []).append(part)
    where = f"Measured at the scale {scale_name(verdict)}"
    return [f"{where}{f', {_listed(parts)}' * (len(parts_of) > 1)}: {words}." for words, parts in parts_of.items()]


def _model(run: Run) -> str:
    """Write a run's model: `gpt2_30m (30.1M parameters)`."""
    size = run.known("parameters", "total")
    return str(run.config["model"]["name"]) + (f" ({_millions(size)} parameters)" if size else "")


def _corpus(run: Run) -> str:
    """Return a person's files by their names, any corpus with its size."""
    data, tokens = run.config["data"], run.known("data", "train_tokens")
    files = (data.get("files") or []) if data["name"] == "local" else []  # elsewhere a pattern within a repository
    names = [Path(each).name for each in ([files] if isinstance(files, str) else files)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    name = f"{names[0]}{more}" if names else str(run.known("data", "name"))
    return name + (f" ({_millions(tokens)} training tokens)" if tokens else "")


def _millions(count: int) -> str:
    """Write a number in millions: `30.1M`, `2,350M`."""
    return f"{count / 1e6:,.0f}M" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _listed(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))
