"""Writes run folders whose true speed-up is known, as train.py would have left them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from judge.comparison import Comparison, compare
from judge.records import find_runs
from judge.row import Row

FLOOR, GAIN, POWER = 2.0, 9.0, 0.35  # L(T) = 2 + 9 T^-.35 for the baseline


def law(steps: float, speedup: float = 1.0) -> float:
    """Final loss of an optimizer that needs 1 / speedup of the baseline's steps."""
    return FLOOR + GAIN * (steps * speedup) ** -POWER


def write_run(
    study: Path,
    optimizer: str = "adamw",
    steps: int = 1000,
    seed: int = 0,
    speedup: float = 1.0,
    noise: float = 0.0,  # standard deviation of the final loss over seeds
    shared: float = 0.0,  # correlation of a seed's luck over optimizers and lengths
    status: str = "finished",
    until: int | None = None,  # the last step that was logged, for a run that did not finish
    flops_per_step: float | None = 1e9,
    seconds_per_step: float = 0.1,
    config: dict[str, Any] | None = None,  # dotted keys over the default config
    manifest: dict[str, Any] | None = None,  # dotted keys over the default manifest
) -> Path:
    """One run folder; its last evaluation is exactly law(steps, speedup) plus the seed's noise."""
    settings: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "batch": {"tokens": 1024, "micro": "auto"},
        "context": 128,
        "grad_clip": 1.0,
        "eval": {"every": 50, "tokens": 65536},
        "optimizer": {"name": optimizer, "lr": 1e-3, "weight_decay": 0.1},
        "model": {"name": "gpt2", "layers": 2, "heads": 2, "width": 64},
        "data": {"name": "stdlib", "dir": "~/.cache/halfstep"},
        "schedule": {"kind": "cosine", "warmup": 0.1, "final": 0.1},
        "tracker": {"name": "none"},
        "launcher": {"name": "serial"},
        "checkpoint": {"every": 100},
        "study": study.name,
    }
    for key, value in (config or {}).items():
        _put(settings, key, value)
    marks = "".join(f"-{value}" for value in (config or {}).values())
    folder = study / f"gpt2-stdlib-{optimizer}-T{steps}-s{seed}{marks}"
    facts: dict[str, Any] = {
        "schema": 1,
        "name": folder.name,
        "study": study.name,
        "status": status,
        "error": "the loss is NaN" if status == "diverged" else None,
        "started": "2026-01-01T00:00:00Z",
        "ended": None if status == "running" else "2026-01-01T01:00:00Z",
        "argv": ["train.py"],
        "config_hash": "0" * 64,
        "git": {"commit": "76e1970aaaa", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "device": {"type": "cuda", "name": "NVIDIA H100", "count": 1, "threads": 8, "peak_flops": 989e12},
        "resolved": {"device": "cuda", "dtype": "bfloat16", "compile": True, "micro": 8},
        "ranks": 1,
        "seed": seed,
        "data": {
            "name": "stdlib",
            "fingerprint": "abc",
            "vocabulary": 256,
            "train_tokens": 10_000_000,
            "val_tokens": 1,
        },
        "parameters": {"total": 100000, "matrix": 98304},
        "flops_per_token": 1000000,
        "tokens_per_step": 1024,
        "resumes": [],
    }
    for key, value in (manifest or {}).items():
        _put(facts, key, value)

    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "manifest.json").write_text(json.dumps(facts, indent=1))
    own, common = (np.random.default_rng(key) for key in ([seed, steps, *optimizer.encode()], [seed]))
    luck = (1 - shared) ** 0.5 * own.standard_normal() + shared**0.5 * common.standard_normal()
    luck = noise * float(luck)
    final = law(steps, speedup) + luck
    # A cliff from ln 256, a power law, and a straight part that the decay of the learning rate brings in.
    start = math.log(256)
    with (folder / "metrics.jsonl").open("w") as file:
        last = steps if until is None else until
        for step in sorted({*range(0, last, max(1, steps // 40)), last}):
            slope = GAIN * ((step + 8.0) ** -POWER - (steps + 8.0) ** -POWER)
            value = min(start, final + slope + 0.15 * (1 - step / steps))
            row = {
                "schema": 1,
                "step": step,
                "tokens": step * 1024,
                "lr": 1e-3 * (1 - step / steps),
                "val/loss": value,
                "flops/total": None if flops_per_step is None else flops_per_step * step,
                "seconds/total": seconds_per_step * step,
                "memory/peak": 3.2e9,
                "memory/state_per_parameter": 8.0,
            }
            for part, fraction in {
                "data": 0.02,
                "gradient": 0.8,
                "curvature": 0.08,
                "optimizer": 0.1,
            }.items():
                row[f"seconds/{part}"] = seconds_per_step * step * fraction
            for part, fraction in {"model": 0.9, "curvature": 0.06, "optimizer": 0.04}.items():
                row[f"flops/{part}"] = None if flops_per_step is None else flops_per_step * step * fraction
            row |= {"seconds/evaluate": 0.01 * step, "seconds/checkpoint": 0.002 * step, "seconds/log": 0.001 * step}
            row |= {"update/share_wte": 0.2, "update/share_c_attn": 0.5, "update/share_vectors": 0.3}
            if step < steps:
                row["train/loss"] = value + 0.02
            file.write(json.dumps(row) + "\n")
    return folder


def write_study(
    study: Path,
    speedups: dict[str, float],
    baseline: str = "adamw",
    ladder: tuple[int, ...] = (1000, 2000, 4000),
    length: int = 2000,
    seeds: int = 3,
    **how: Any,
) -> Path:
    """A ladder of the baseline's and, at one length, every newcomer with its true speed-up."""
    for seed in range(seeds):
        for steps in ladder:
            write_run(study, baseline, steps, seed, **how)
        for optimizer, speedup in speedups.items():
            write_run(study, optimizer, length, seed, speedup, **how)
    return study


def compared(study: Path, baseline: str = "adamw", **options: Any) -> Comparison:
    return compare(find_runs(study), baseline, **options)


def row(comparison: Comparison, optimizer: str, rule: str = "matched", axis: str = "steps") -> Row:
    """The one row of its kind."""
    (result,) = [r for r in comparison.rows if (r.optimizer, r.rule, r.axis) == (optimizer, rule, axis)]
    return result


def _put(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        mapping = mapping.setdefault(key, {})
    mapping[last] = value
