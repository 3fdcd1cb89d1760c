"""What bench_suite's part claims runs: claims in stages, on the corpus and at the rates that were asked for."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from conventions import atomic
from judge.claims.claim import Claim
from judge.claims.claim_file import find_claim, read_claim
from judge.claims.planned import composed
from scripts.study.sweep import RUNS
from scripts.suite.folder import Folder
from scripts.suite.rates import KEY, Row, Sweep, put

PART = "scripts.bench_suite --part claims"  # in the notes of what it swept


@dataclass(frozen=True)
class Stage:
    """A claim, or some of its arms: the others come in a later stage."""

    title: str
    claim: str
    arms: tuple[str, ...] = ()  # none: all


STAGES = [
    Stage("AdamW's ladder", "sophia_2x", ("adamw",)),
    Stage("SOAP's 40 and 35 %", "soap_40_35"),
    Stage("Sophia's 2x, both presets", "sophia_2x"),
    Stage("Muon's 2x", "muon_2x"),
    Stage("SOAP beside Shampoo", "shampoo_20"),
    Stage("MKOR and K-FAC", "mkor"),
    Stage("AdaHessian", "adahessian_lm"),
]


@dataclass(frozen=True)
class Found:
    """A claim, by (part, arm) the sweeps of its rates, and what came of those that ended.

    text: of its file, where that is none of configs/claim: `write` puts it in its place.
    """

    claim: Claim
    sweeps: Mapping[tuple[str, str], Sweep]
    rows: Mapping[tuple[str, str], Row]
    text: str | None = None

    @property
    def ours(self) -> bool:
        """Whether its file is, and so its studies are."""
        return self.text is not None

    def write(self) -> None:
        path = self.claim.path
        if self.text is not None and not (path.is_file() and path.read_text(encoding="utf-8") == self.text):
            atomic.write_text(path, self.text)  # a call may be killed here

    def waits(self, part: str, arm: str) -> bool:
        """Whether the arm's runs do not know their rate yet."""
        return (part, arm) in self.sweeps and (part, arm) not in self.rows

    def kind(self, part: str, arm: str) -> str:
        """Runs that take as long per update: those of arms that are alike, and their trials."""
        sweep = self.sweeps.get((part, arm))
        return sweep.name if sweep else f"{self.claim.name} {part} {arm}"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        only: names of claims; none: all of STAGES.
        data: overrides that put another corpus in the place of the scale's own, data=... the first.
        rates: learning rates by optimizer, given by hand; these are not swept.
        trials: of each arm's rate; 0: the runs take the scale's own.
        overrides: where and how the runs are computed: keys that scripts.claims run takes.
        rehearsal: a few updates of one seed instead of the real ones, under a name of their own.
    """

    scale: str
    only: list[str]
    data: list[str]
    rates: dict[str, float]
    trials: int
    overrides: list[str]
    rehearsal: bool = False

    def stages(self) -> list[Stage]:
        return [stage for stage in STAGES if not self.only or stage.claim in self.only]

    def find(self, name: str, folder: Folder, swept: list[Row]) -> Found:
        """The claim, or what becomes of it on another corpus or at other rates: a file beside the results.

        swept: the rates that sweeps have found; those that ended since are added. Nothing is written yet.
        Raises ValueError where it does not compose, or the file has runs of another corpus or of other rates.
        """
        claim = find_claim(name)
        if not (self.data or self.rates or self.trials or self.rehearsal):
            return Found(claim, {}, {})
        values: Any = OmegaConf.to_container(OmegaConf.load(claim.path))
        scale = values["scales"][self.scale]
        values["scales"] = {self.scale: scale}
        given = dict(pair.split("=", 1) for pair in self.data)
        if given:
            scale["config"] = {**(scale.get("config") or {}), **{key: yaml.safe_load(v) for key, v in given.items()}}
            scale["may_say"] = f"{scale['may_say'].strip()} On data={given['data']}, not on the corpus of the claim."
        if self.rehearsal:
            scale |= {"steps": 8, "seeds": scale["seeds"][:1], "may_say": "Nothing: this is a rehearsal."}
        word = "rehearsal" if self.rehearsal else given.get("data", "rates")
        path = folder.path / "claims" / f"{name}.{word}.yaml"
        claim = _claim(values, path)
        try:
            for place in [(part, arm) for part in scale["parts"] for arm in claim.scale(self.scale).arms_of(part)]:
                composed(claim, self.scale, *place)
        except ValueError as error:
            raise ValueError(f"--data: {str(error).removeprefix(f'{path}: ')}" if given else str(error)) from None
        sweeps, rows = self._rated(claim, scale, swept)
        if not self.rehearsal and path.is_file():
            self._refuse_others(path, scale)
        return Found(_claim(values, path), sweeps, rows, _text(values))

    def _rated(
        self, claim: Claim, values: dict[str, Any], swept: list[Row]
    ) -> tuple[dict[tuple[str, str], Sweep], dict[tuple[str, str], Row]]:
        """Put every arm's rate, as far as it is known, into the values of the claim's scale."""
        sweeps: dict[tuple[str, str], Sweep] = {}
        rows: dict[tuple[str, str], Row] = {}
        scale = claim.scale(self.scale)
        for place in [(part, arm) for part in scale.parts for arm in scale.arms_of(part)]:
            optimizer = scale.overrides(*place)["optimizer"]
            if optimizer in self.rates:
                put(values, *place, {KEY: self.rates[optimizer]}, 0, "a rate given by hand")
            elif self.trials:
                word = "rehearsal" if self.rehearsal else "rates"  # what is published is *.rates-* and rates-*
                sweep = sweeps[place] = Sweep.of(claim, self.scale, *place, self.trials, word)
                known = (row for row in swept if (row["sweep"], row["trials"]) == (sweep.name, self.trials))
                row = next(known, None)
                if row is None and (row := sweep.row(*place)):
                    swept.append(row)
                if row:
                    rows[place] = row
                    found = f"the best of {row['trials']} settings of {sweep.about} at {row['updates']:,} updates"
                    note = f"{found}, by {PART}"
                    put(values, *place, row["rates"], row["trials"], note, row["at_an_end"])
        return sweeps, rows

    def _refuse_others(self, path: Path, scale: Mapping[str, Any]) -> None:
        """Raises ValueError where the runs or the trials of a file would no longer be its own."""
        values: Any = OmegaConf.to_container(OmegaConf.load(path))
        held = values["scales"].get(self.scale) or {"config": scale.get("config"), "parts": {}}
        rated = [
            (now.get("arms") or {}).get(arm) == before
            for part, now in scale["parts"].items()
            for arm, before in ((held["parts"].get(part) or {}).get("arms") or {}).items()
            if KEY in (before or {})
        ]
        same = held.get("config") == scale.get("config") and all(rated)
        studies = [RUNS / f"{path.stem}-{self.scale}-{part}" for part in held["parts"]]
        tried = any("at_an_end" in arm or PART in arm.get("note", "") for arm in (held.get("arms") or {}).values())
        if not same and (tried or any(any(study.rglob("manifest.json")) for study in studies)):
            raise ValueError(
                f"{path} was written for other --data, --rates or --trials: move it away, or give the same"
            )


def check_data(data: Sequence[str]) -> list[str]:
    """Raises ValueError unless they choose a corpus, and nothing but what goes with it."""
    if wrong := next((each for each in data if "=" not in each), None):
        raise ValueError(f"--data {wrong}: give it as --data KEY=VALUE")
    keys = [each.partition("=")[0] for each in data]
    if keys and keys[0] != "data":
        raise ValueError("--data: the first must be data=NAME, a file of configs/data")
    for key in keys[1:]:
        if not key.startswith("data.") and key != "eval.tokens":
            raise ValueError(f"--data {key} is no key of a corpus: data.KEY or eval.tokens")
    return list(data)


def _text(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, width=120)


def _claim(values: Mapping[str, Any], path: Path) -> Claim:
    """As the file there would have it."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / path.name
        draft.write_text(_text(values), encoding="utf-8")
        try:
            return replace(read_claim(draft), path=path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(draft), str(path))) from None
