"""A claim, as configs/claim/<name>.yaml holds it: what a paper says, the runs that test it, and the rule that decides.

    sentence, source    what is claimed, and where
    quantities          name: {metric, ...}: what a finished run is asked for beside its loss
    figures             the paper's numbers: {part, arm, quantity, value}, `recalled: true` where no source was at hand
    statements          what is tested. The first that fits a part decides it; the others have verdicts of their own
    others              what independent work found about the same thing: shown beside ours, and decides nothing
    public              runs that others published and results/public holds, with verdicts of their own: {study, arm,
                        against, may_say, ...}, as judge/claims/evidence.py has it
    scales              paper, small, tiny: the parts (model sizes, batches), the arms, T, the seeds; none of them where
                        public runs alone decide. `tokenizer: {name, vocabulary}`: the paper's, where the runs have
                        another by default; data.tokenizer=hf:FOLDER on the command line gives them the paper's

A statement is a number that must come out `at_least` or `at_most` a figure s, give or take a tolerance d (a share of
s). The number is a `speedup` (by a rule, on an axis), or the `value` of a quantity at T, or its `difference` or
`ratio` between two arms. `arm: soap` is tested in every part, or in those that `parts: "*_large"` fits (a pattern, or a
list of them); `arm: large/soap` is the arm of that part. `than: [arm, against]` holds it against the same number of
another pair: divided by it, or for a difference less it.

An arm's config is {key: value} as on train.py's command line. Scale, arm, part and the part's own words for the arm are
laid over one another in that order.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from conventions.config_keys import CONFIGS
from conventions.sentence import nearest
from judge.claims.evidence import Evidence
from judge.claims.statement import Statement

CLAIMS = CONFIGS / "claim"
PAPER = "paper"  # the scale of the paper's own protocol


@dataclass(frozen=True)
class Quantity:
    """A number that every run has when it has ended: a metric's last value."""

    metric: str  # a key of metrics.jsonl
    title: str
    per_step: bool = False  # a cumulative metric, over the updates made
    exponential: bool = False  # a perplexity is the exponential of a loss
    scale: float = 1.0  # into the unit of the claim's figures: 100 for per cent, 1e-12 for TFLOPs
    digits: int = 3  # after the point


@dataclass(frozen=True)
class PaperFigure:
    """One number of the paper's."""

    part: str
    arm: str
    quantity: str
    value: float
    recalled: bool = False  # from memory, not found in a source


@dataclass(frozen=True)
class Other:
    """A measurement by somebody else, in runs of their own."""

    source: str
    says: str
    where: str = ""  # on which models, at which scale
    beside: str | None = None  # a pattern of what statements say: those that it is about; null: the claim as a whole
    value: float | None = None  # in the unit of their figure, and so are
    low: float | None = None  # the ends of a range; one of them alone is a bound
    high: float | None = None
    recalled: bool = False  # from memory, not found in a source

    def __post_init__(self) -> None:
        for key, text in {"source": self.source, "says": self.says}.items():
            if not text.strip() or "\n" in text.strip():
                raise ValueError(f"{key} must be one line of text, not {text!r}: YAML's >- folds several into one")
        rising = [end for end in (self.low, self.value, self.high) if end is not None]
        if rising != sorted(rising):
            raise ValueError(f"low must be at most value, and both at most high, not {', '.join(map(str, rising))}")
        if rising and self.beside is None:
            raise ValueError("beside must be given where there are numbers: the statements whose figure they are like")

    def about(self, statement: Statement) -> bool:
        return self.beside is not None and fnmatch.fnmatchcase(statement.says, self.beside)


@dataclass(frozen=True)
class ArmSettings:
    """An arm before it has run, as the claim's file has it."""

    config: dict[str, Any] = field(default_factory=dict)
    lengths: list[float] = field(default_factory=lambda: [1.0])  # shares of T, each run decayed over its own length
    trials: int = 0  # settings tried before this one was chosen; 0: it comes from the paper, or is a guess
    note: str = ""  # where the settings come from; after a semicolon, what else there is to know
    sweep: list[str] = field(default_factory=list)  # keys that trials of it are about; none: its learning rates
    at_an_end: list[str] = field(default_factory=list)  # keys whose best trial had the lowest or highest value tried


@dataclass(frozen=True)
class Part:
    """Runs that are compared with one another: one model, one batch, one folder."""

    config: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None  # T, where it is not the scale's
    beside: str | None = None  # the part whose figures in the paper stand beside ours; null: its own name
    arms: dict[str, Any] | None = None  # the arms that it has, and what is different about them here; null: all


class PlanCell(NamedTuple):
    """The place of one run in a claim's plan."""

    part: str
    arm: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.arm}-T{self.steps}-s{self.seed}"


@dataclass(frozen=True)
class PapersTokenizer:
    """The tokenizer of the paper, for which the one of the runs stands unless `data.tokenizer` gives it."""

    name: str
    vocabulary: int  # tokens, with special ones


@dataclass(frozen=True)
class Scale:
    name: str
    may_say: str  # in so many words, what a verdict at this scale can mean and what it cannot
    config: dict[str, Any]
    steps: int  # T, in updates
    seeds: list[int]
    arms: dict[str, ArmSettings]
    parts: dict[str, Part]
    stand_in: bool = False  # of the scale `paper`: something else than the paper's own models, and so never refuted
    rate_trials: int = 0  # of each arm's learning rate before its runs; 0: the rates written here are taken
    tokenizer: PapersTokenizer | None = None  # null: the runs have the paper's, or none like it

    @property
    def papers_own(self) -> bool:
        """Return whether the scale is the paper's own, so that its runs may refute the claim."""
        return self.name == PAPER and not self.stand_in

    def arms_of(self, part: str) -> list[str]:
        chosen = self.parts[part].arms
        return list(self.arms) if chosen is None else list(chosen)

    def length(self, part: str) -> int:
        """Return T in updates."""
        return self.parts[part].steps or self.steps

    def lengths(self, part: str, arm: str) -> list[int]:
        """Return the lengths of an arm's runs in updates, T among them."""
        return sorted({round(share * self.length(part)) for share in self.arms[arm].lengths})

    def cells(self, parts: Sequence[str], seeds: Sequence[int]) -> list[PlanCell]:
        """Return every run of these parts."""
        return [
            PlanCell(part, arm, steps, seed)
            for part in parts
            for arm in self.arms_of(part)
            for steps in self.lengths(part, arm)
            for seed in seeds
        ]

    def overrides(self, part: str, arm: str) -> dict[str, Any]:
        own = (self.parts[part].arms or {}).get(arm) or {}
        return {**self.config, **self.arms[arm].config, **self.parts[part].config, **own}


@dataclass(frozen=True, eq=False)
class Claim:
    path: Path
    sentence: str
    source: str
    statements: list[Statement]
    scales: dict[str, Scale]
    quantities: dict[str, Quantity]
    figures: list[PaperFigure]
    others: list[Other] = field(default_factory=list)
    public: list[Evidence] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def word(self) -> str:
        """Return the word for it in scripts.claims: its name, or the path of a file that is not in configs/claim."""
        path, root = self.path.resolve(), CONFIGS.parent
        if path.parent == CLAIMS:
            return self.name
        return str(path.relative_to(root) if path.is_relative_to(root) else self.path)

    def study(self, scale: str, part: str) -> str:
        """Return the name of the folder that holds a part's runs."""
        return f"{self.name}-{scale}-{part}"

    def scale(self, name: str) -> Scale:
        if not self.scales:
            raise ValueError(
                f"{self.path} rests on runs of others alone: claims verify --scale public gives its verdict"
            )
        if name not in self.scales:
            raise ValueError(f"{self.path} has no scale {name!r}: {nearest(name, self.scales)}")
        return self.scales[name]

    def tested_in(self, statement: Statement, parts: Sequence[str]) -> list[str]:
        """Return the parts in which a statement is tested; "" stands for one across parts."""
        if statement.across:
            return [""] if {name.partition("/")[0] for name in statement.arms} <= set(parts) else []
        return statement.among(parts)
