"""Writes claims of two arms, and the run folders that would have come of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from judge.claims.claim import Claim
from judge.claims.claim_file import read_claim
from judge.claims.verdict import Verdict, verify
from scripts.study.claim_runs import ClaimRuns
from tests.study import write_run

SPEEDUP = {"says": "twice as fast", "measure": "speedup", "arm": "new", "against": "old", "at_least": 1.5,
           "tolerance": 0.1}  # fmt: skip

OTHER = {"source": "Somebody", "where": "elsewhere", "says": "it is slower there", "beside": "twice as fast",
         "low": 0.5, "high": 0.75}  # fmt: skip


def scale(**changes: Any) -> dict[str, Any]:
    """One part, T = 2,000 updates, a ladder of the old optimizer's."""
    keys: dict[str, Any] = {
        "may_say": "no more than this",
        "config": {"experiment": "scale_tiny"},
        "steps": 2000,
        "seeds": [0, 1, 2],
        "arms": {
            "old": {"config": {"optimizer": "adamw"}, "lengths": [0.5, 1, 2]},
            "new": {"config": {"optimizer": "soap", "optimizer.lr": 1e-2}},
        },
        "parts": {"only": {}},
    }
    return {**keys, **changes}


def write_claim(folder: Path, scales: dict[str, Any] | None = None, **changes: Any) -> Path:
    keys: dict[str, Any] = {"sentence": "It is twice as fast.", "source": "arXiv 0000.00000", "statements": [SPEEDUP]}
    keys |= {"scales": scales or {"paper": scale(), "tiny": scale()}, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "twice.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


def train(
    claim: Claim,
    name: str,
    folder: Path,
    speedups: dict[str, float] | None = None,  # by "arm" or "part/arm"
    seeds: int = 3,
    costs: dict[str, float] | None = None,  # FLOPs per step by arm
    rows: Callable[[str, int], dict[str, Any]] = lambda arm, seed: {},  # what every row has on top
    **how: Any,
) -> list[Path]:
    """The folders of every run that the claim plans at a scale, with their true speed-ups, and the plans."""
    paths, true = [], speedups or {}
    parts = list(claim.scale(name).parts)
    asked = ClaimRuns(claim, name, parts, range(seeds), place=folder)
    plans = asked.plans()
    asked.write(plans)
    for job in claim.scale(name).cells(parts, range(seeds)):
        fast = true.get(f"{job.part}/{job.arm}", true.get(job.arm, 1.0))
        flops = (costs or {}).get(job.arm, 1e9)
        study = folder / claim.study(name, job.part)
        path = write_run(study, job.arm, job.steps, job.seed, fast, flops_per_step=flops, **how)
        config = (plans[job.part].arms[job.arm].config or {}) | {"steps": job.steps, "seed": job.seed}
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        metrics = path / "metrics.jsonl"
        lines = [{**json.loads(line), **rows(job.arm, job.seed)} for line in metrics.read_text().splitlines()]
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths.append(path)
    return paths


def verified(path: Path, name: str, folder: Path, seeds: int = 3) -> Verdict:
    claim = read_claim(path)
    return verify(claim, name, list(claim.scale(name).parts), range(seeds), folder)


def change(path: Path, file: str, **keys: Any) -> None:
    """Overwrite keys, dotted with two underscores, of a run's config.yaml or manifest.json."""
    load, dump = (json.loads, json.dumps) if file.endswith(".json") else (yaml.safe_load, yaml.safe_dump)
    values = load((path / file).read_text())
    for dotted, value in keys.items():
        *way, last = dotted.split("__")
        inner = values
        for key in way:
            inner = inner[key]
        inner[last] = value
    (path / file).write_text(dump(values))
