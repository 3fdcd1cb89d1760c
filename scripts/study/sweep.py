"""A sweep of runs that a program plans: each is an experiment of Hydra's, and train.py's own `-m` turns them."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from conventions.config_keys import CONFIGS
from harness.process import Process

RUNS = Path("results/runs")
# What a person may choose for runs whose file fixes the rest: where and how they are computed, kept and watched.
FREE = ("launcher", "tracker", "checkpoint", "device", "dtype", "compile", "batch.micro", "data.dir", "hydra")


def refuse_fixed(overrides: Sequence[str], fixed_by: str) -> None:
    """Raises ValueError where an override would change what a file fixes for its runs."""
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if not any(key == free or key.startswith((f"{free}.", f"{free}/")) for free in FREE):
            raise ValueError(f"{override} would change what {fixed_by} fixes: give {', '.join(FREE)} alone")


def command(experiments: Mapping[str, str], study: Path, overrides: Sequence[str]) -> tuple[list[str], Path]:
    """The command line that trains them in their order, and the folder of the sweep, made below `study`.

    experiments: the text of a YAML by its name. overrides: launcher's and Hydra's keys, and others for every run.
    """
    folder = study / ".sweeps" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    (folder / "experiment").mkdir(parents=True)
    for name, text in experiments.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
    line = [sys.executable, str(CONFIGS.parent / "train.py"), "-m", f"experiment={','.join(experiments)}"]
    place = json.dumps(f"file://{folder.resolve()}")
    line += ["resume=true", *overrides, f"hydra.searchpath=[{place}]", f"hydra.sweep.dir={folder}"]
    return line, folder


def run(line: Sequence[str]) -> int:
    """The sweep's exit code. Ctrl-C is passed on to it: it stops its runs and ends with 130."""
    ending = Process(line).wait()
    return 1 if ending.code is None else ending.code
