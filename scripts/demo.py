"""Trains the demo's optimizers side by side over this machine's cores or GPUs, then prints their race and draws its page.

    python -m scripts.demo                        # make demo
    python -m scripts.demo launcher.jobs=1        # one after another

The runs are the experiments configs/experiment/demo_*.yaml. Expect how long they will take, by a probe (the very same
sweep over a few updates), a live table, then the table of who led and results/demo/report.html. Finished runs are kept,
and one that was cut off goes on. Each run has one thread: a model this small leaves nothing for a second one to do.
"""

import argparse
import heapq
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from conventions import quantity
from conventions.config_keys import CONFIGS
from conventions.run_format import ENDED, read_rows, read_status
from conventions.sentence import one_sentence
from harness.sweep.local import cores, visible_gpus
from scripts import report, speedup

DEMO = Path("results/demo")
PROBED = 20  # updates of a probe; its first half warms up


def main(overrides: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="launcher.jobs=..., device=..., as train.py takes them")
    options = parser.parse_args(overrides)
    with one_sentence():
        runs = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONFIGS / "experiment").glob("demo_*.yaml"))}
        left = {name: run for name, run in runs.items() if read_status(Path(run["run_dir"])) not in ENDED}
