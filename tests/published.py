"""Two public studies, written by hand: a checkout with logs, one with a file for each cell, and their YAML."""

import json

import yaml

from judge.public import study as study_module
from tests.foreign import write_text

LINE = "step:{step}/{total} val_loss:{loss:.5f} train_time:{seconds:.3f}s step_avg:3.00ms\n"
CELL = "soap/130m/1/result.json"
SIZES = {"130m": 130_000_000, "300m": 300_000_000, "520m": 520_000_000}


def study(**values):
    """A study of configs/public as its YAML has it."""
    return {
        "title": "Theirs",
        "setting": "models of theirs",
        "repository": "https://example.org/a/b",
        "commit": "abc",
        "folder": "results",
        "sigma": {"value": 0.002, "source": "ten seeds", "freedom": 9},
        **values,
    }


def logged(**values):
    arms = [
        {"name": "muon", "files": ["muon/*.txt"], "updates": 3000, "printed": 3.28, "seeds": 3},
        {"name": "soap", "files": ["soap.txt"], "updates": 2500, "printed": 3.2801, "seeds": 2},
        {"name": "ema", "files": ["README.md"], "updates": 2000, "column": "step 2000", "seeds": 2},
    ]
    logs = {"size": "124m", "parameters": 124_000_000, "tokens_per_update": 1000, "arms": arms}
    slope = {"per_doubling": 0.13, "factor": 1.5, "source": "a law"}
    return study(baseline="muon", rule="isoloss", slope=slope, logs=logs, **values)


def tabled(**values):
    tables = {
        "pattern": "(?P<arm>[^/]+)/(?P<size>[^/]+)/(?P<budget>[0-9]+)/result[.]json",
        "losses": "baseline.loss", "lowest": "min_loss", "trials": "result", "parameters": SIZES,
        "tokens_per_parameter": 20, "names": {"base": "AdamW"},
    }  # fmt: skip
    return study(baseline="AdamW", rule="matched", losses="lowest", tables=tables, **values)


def loss(parameters, tokens):
    return 1.7 + 400 * parameters**-0.34 + 410 * tokens**-0.28


def write_studies(tmp_path, monkeypatch):
    """A checkout of both kinds of study, their YAML, and a results folder, all below tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_module, "STUDIES", tmp_path / "studies")
    monkeypatch.setattr(study_module, "RESULTS", tmp_path / "results/public")
    for name, values in {"logged": logged(), "tabled": tabled()}.items():
        write_text(tmp_path / "studies" / f"{name}.yaml", yaml.safe_dump(values))
    folder = tmp_path / "checkout/results"
    for seed, end in enumerate((3.279, 3.28, 3.281)):  # one goes on, one is copied
        lines = [LINE.format(step=step, total=3000 + 100 * seed, loss=end + (3000 - step) / 1e4, seconds=step + seed)
                 for step in range(0, 3001 + 100 * seed, 500)]  # fmt: skip
        write_text(folder / "muon" / f"s{seed}.txt", "".join(lines))
    write_text(folder / "muon/s3.txt", (folder / "muon/s0.txt").read_text())
    two = [LINE.format(step=step, total=2500, loss=end + (2500 - step) / 1e4, seconds=step + end)
           for end in (3.2801, 3.2803) for step in range(0, 2501, 500)]  # fmt: skip
    write_text(folder / "soap.txt", "".join(two))
    rows = [
        "seed | step 1900 | step 2000",
        "-: | -: | -:",
        "0 | 3.3 | 3.279",
        "1 | 3.3 | 3.281",
        "**mean** | 3.3 | 3.28",
    ]
    write_text(folder / "README.md", "# Theirs\n\n" + "".join(f"| {row} |\n" for row in rows))
    for size, parameters in SIZES.items():
        for budget in (1, 2, 4, 8):
            for name, gain in (("base", 1.0), ("soap", 1.3)):
                value = loss(parameters, 20 * parameters * budget * gain)
                cell = {
                    "min_loss": value,
                    "baseline": {"loss": value + 0.001},
                    "result": {"a": value, "b": None, "c": 7.1},
                }
                write_text(folder / name / size / str(budget) / "result.json", json.dumps(cell))
    return tmp_path
