"""Says what the verdicts of a scale can mean, and with which tokenizer its runs were trained where that matters."""

from conventions.config_keys import CONFIGS, tokenizer_label
from conventions.yaml_file import read_yaml
from judge.claims.claim import Scale
from judge.claims.verdict import Verdict
from judge.records import Run


def may_say(verdict: Verdict) -> str:
    """Return what the claim's file says of the scale, with a sentence on each tokenizer of its runs.

    A tokenizer is named where the paper had another than the file, or where the command line chose another.
    """
    paper = verdict.scale.tokenizer
    sentences = []
    for part, arm in verdict.every_arm:
        own = _of_file(verdict.scale, part, arm.label, arm.runs)
        for run in arm.runs:
            name, size = run.section("data").get("tokenizer"), run.known("data", "vocabulary")
            if name is None or (paper is None and name == own):
                continue
            label = tokenizer_label(str(name)) + (f" ({size:,} tokens)" if size else "")
            if paper is None:
                sentences.append(f"The runs' tokenizer is {label}.")
            elif name != own and size == paper.vocabulary:
                sentences.append(f"The runs' tokenizer is {label}, given for {paper.name}'s.")
            else:
                sentences.append(f"The tokenizer {label} stands for {paper.name}'s ({paper.vocabulary:,} tokens).")
    return " ".join([verdict.scale.may_say.strip(), *dict.fromkeys(sentences)])


def _of_file(scale: Scale, part: str, arm: str, runs: list[Run]) -> str | None:
    """Return the tokenizer that runs have where the command line chooses none: the claim's, or else the corpus's."""
    chosen = scale.overrides(part, arm).get("data.tokenizer")
    corpus = CONFIGS / "data" / f"{runs[0].section('data').get('name')}.yaml" if runs else None
    if chosen is None and corpus is not None and corpus.is_file():
        chosen = read_yaml(corpus).get("tokenizer")
    return None if chosen is None else str(chosen)
