"""Reads a claim's YAML; whatever is wrong with it becomes one sentence that names the file and the key."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from conventions.form import short
from conventions.keywords import construct
from conventions.paths import expanded
from conventions.sentence import nearest
from conventions.yaml_file import read_yaml
from judge.claims.claim import CLAIMS, ArmSettings, Claim, Other, PaperFigure, PapersTokenizer, Part, Quantity, Scale
from judge.claims.evidence import Evidence
from judge.claims.statement import Statement
from judge.ladder import RUNGS

SCALES = ("paper", "small", "tiny")
OURS = ("study", "run_dir", "resume", "seed", "steps", "launcher", "tracker")  # what no arm may set
NAME = re.compile(r"[A-Za-z0-9_.]+")  # of claims, parts and arms


def list_claims() -> list[Claim]:
    return [read_claim(path) for path in sorted(CLAIMS.glob("*.yaml"))]


def find_claim(word: str) -> Claim:
    """Find a claim by the name of a file in configs/claim, or by the path of any YAML."""
    if word.endswith((".yaml", ".yml")):
        return read_claim(expanded(word, "claim"))
    names = [path.stem for path in CLAIMS.glob("*.yaml")]
    if word not in names:
        raise ValueError(f"there is no claim {word!r}: {nearest(word, names)}")
    return read_claim(CLAIMS / f"{word}.yaml")


def read_claim(path: Path) -> Claim:
    """Read a claim's file. Raises ValueError, which names the file and the key, for whatever is wrong with it."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: give the name of a claim, or the path of its file") from None
    try:
        claim: Claim = construct(_claim, values, "", path)
        for problem in _problems(claim):
            raise ValueError(problem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return claim


def with_others(claim: Claim) -> Claim:
    """Return the claim with the `others` that its namesake in configs/claim has now: <claim>.<word>.yaml is a copy.

    The copy may test other statements: of what is about none of them the numbers are left out.
    """
    path = CLAIMS / f"{claim.name.partition('.')[0]}.yaml"
    if path.resolve() == claim.path.resolve() or not path.is_file():
        return claim
    silent: dict[str, Any] = {"beside": None, "value": None, "low": None, "high": None}
    known = read_claim(path).others
    others = [o if any(o.about(each) for each in claim.statements) else replace(o, **silent) for o in known]
    return replace(claim, others=others)


def _claim(
    path: Path,
    sentence: str,
    source: str,
    statements: list[Any],
    scales: dict[str, Any] | None = None,
    quantities: dict[str, Any] | None = None,
    figures: list[Any] | None = None,
    others: list[Any] | None = None,
    public: list[Any] | None = None,
) -> Claim:
    return Claim(
        path,
        sentence,
        source,
        _list(Statement, statements, "statements"),
        {name: _one(_scale, value, f"scales.{name}", name) for name, value in (scales or {}).items()},
        _group(Quantity, quantities or {}, "quantities"),
        _list(PaperFigure, figures or [], "figures"),
        _list(Other, others or [], "others"),
        _list(Evidence, public or [], "public"),
    )


def _scale(
    name: str,
    may_say: str,
    steps: int,
    seeds: list[int],
    arms: dict[str, Any],
    parts: dict[str, Any],
    config: dict[str, Any] | None = None,
    stand_in: bool = False,
    rate_trials: int = 0,
    tokenizer: dict[str, Any] | None = None,
) -> Scale:
    section = f"scales.{name}"
    settings, pieces = _group(ArmSettings, arms, f"{section}.arms"), _group(Part, parts, f"{section}.parts")
    papers = None if tokenizer is None else _one(PapersTokenizer, tokenizer, f"{section}.tokenizer")
    return Scale(name, may_say, config or {}, steps, seeds, settings, pieces, stand_in, rate_trials, papers)


def _list(kind: Any, values: list[Any], section: str) -> list[Any]:
    return [_one(kind, value, f"{section}[{i}]") for i, value in enumerate(values)]


def _group(kind: Any, values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {name: _one(kind, value, f"{section}.{name}") for name, value in values.items()}


def _one(kind: Any, value: Any, section: str, *leading: Any) -> Any:
    return construct(kind, _keys(value, section), section, *leading)


def _keys(value: Any, section: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{section} holds keys, not the value {short(value)}")
    return value or {}


def _problems(claim: Claim) -> Iterator[str]:
    """Yield a sentence on each problem between the keys of a claim, each of which may be right by itself."""
    if not NAME.fullmatch(claim.name):
        yield f"its own name, {claim.name!r}, must be letters, digits, dots and underscores, for it names folders"
    if not claim.statements:
        yield "statements is empty: give one at least"
    if not claim.scales and not claim.public:
        yield "scales is empty: give one at least, or public runs"
    for i, evidence in enumerate(claim.public):
        for problem in evidence.problems(claim.statements):
            yield f"public[{i}].{problem}"
    asked = {f"figures[{i}]": figure.quantity for i, figure in enumerate(claim.figures)}
    asked |= {f"statements[{i}]": each.quantity for i, each in enumerate(claim.statements) if each.quantity}
    for where, quantity in asked.items():
        if quantity not in claim.quantities:
            yield f"{where}.quantity {quantity!r} is none of its quantities: {nearest(quantity, claim.quantities)}"
    for i, other in enumerate(claim.others):
        sentences = [each.says for each in claim.statements]
        if other.beside is not None and not any(other.about(each) for each in claim.statements):
            yield f"others[{i}].beside {other.beside!r} is like no statement: {nearest(other.beside, sentences)}"
    for name, scale in claim.scales.items():
        if name not in SCALES:
            yield f"scales.{name} is no scale: {nearest(name, SCALES)}"
        yield from _scale_problems(scale, f"scales.{name}")
        for i, statement in enumerate(claim.statements):
            for problem in _statement_problems(statement, scale):
                yield f"statements[{i}], at the scale {name}: {problem}"


def _scale_problems(scale: Scale, section: str) -> Iterator[str]:
    if scale.rate_trials < 0:
        yield f"{section}.rate_trials must be at least 0, not {scale.rate_trials}"
    for key in ("arms", "parts", "seeds"):
        if not getattr(scale, key):
            yield f"{section}.{key} is empty: give one at least"
    if len(set(scale.seeds)) < len(scale.seeds) or min(scale.seeds, default=0) < 0:
        yield f"{section}.seeds must be different whole numbers from 0 up, not {scale.seeds}"
    configs = {"config": scale.config} | {f"arms.{name}.config": each.config for name, each in scale.arms.items()}
    for name, settings in scale.arms.items():
        if not all(share > 0 for share in settings.lengths) or 1 not in settings.lengths:
            yield f"{section}.arms.{name}.lengths must be shares of T above 0, and 1 among them, not {settings.lengths}"
        if settings.trials < 0:
            yield f"{section}.arms.{name}.trials must be at least 0, not {settings.trials}"
    for name, part in scale.parts.items():
        if scale.length(name) < 1:
            yield f"{section}.steps must be at least 1, not {scale.length(name)}"
        configs[f"parts.{name}.config"] = part.config
        for arm, changed in (part.arms or {}).items():
            if arm not in scale.arms:
                yield f"{section}.parts.{name}.arms: {arm!r} is no arm: {nearest(arm, scale.arms)}"
            if changed is not None and not isinstance(changed, Mapping):
                yield f"{section}.parts.{name}.arms.{arm} holds keys, not the value {changed!r}"
            configs[f"parts.{name}.arms.{arm}"] = changed or {}
    for name in (*scale.arms, *scale.parts):
        if not NAME.fullmatch(name):
            yield f"{section}: {name!r} must be letters, digits, dots and underscores, for it names folders"
    for name in scale.parts:
        for one, other in combinations([arm for arm in scale.arms_of(name) if arm in scale.arms], 2):
            if scale.overrides(name, one) == scale.overrides(name, other):
                yield f"{section}: the arms {one} and {other} of the part {name} are the same: leave one out"
    for where, config in configs.items():
        for key in config:
            if str(key).partition(".")[0] in OURS:
                yield f"{section}.{where} must not set {key}: steps, lengths and seeds do, or the command line"


def _statement_problems(statement: Statement, scale: Scale) -> Iterator[str]:
    for name in statement.arms:
        part, slash, arm = name.rpartition("/")
        if bool(slash) != statement.across:
            yield f"{name} must be {'part/arm' if statement.across else 'an arm'}, as {statement.arm} is"
        elif slash and part not in scale.parts:
            yield f"{name}: {part!r} is no part: {nearest(part, scale.parts)}"
        elif arm not in scale.arms:
            yield f"{name}: {arm!r} is no arm: {nearest(arm, scale.arms)}"
        else:
            for place in [part] if slash else statement.among(scale.parts):
                if arm not in scale.arms_of(place):
                    yield f"{name}: the part {place} has no arm {arm!r}: {nearest(arm, scale.arms_of(place))}"
    if not statement.across and not statement.among(scale.parts):
        yield f"no part is like {statement.parts!r}: {nearest(str(statement.parts), scale.parts)}"
    if statement.measure != "speedup":
        return
    for pair in statement.pairs:
        name = statement.ladder(*pair).rpartition("/")[2]
        lengths = scale.arms[name].lengths if name in scale.arms else []
        if len(set(lengths)) < RUNGS:
            yield f"the rule {statement.rule} needs {RUNGS} lengths or more of {name}, not {lengths}"
