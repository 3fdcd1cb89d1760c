"""Trains the demo's optimizers side by side over this machine's cores or GPUs, prints who led, and draws the page.

    python -m scripts.demo        # make demo

The runs are the experiments configs/experiment/demo_*.yaml. Expect how long they will take, by a probe (the same sweep
over a few updates), a live table, then the race's table and results/demo/report.html. Finished runs are kept, and one
that was cut off goes on. Each run has one thread: so small a model leaves nothing for a second one to do.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from conventions import quantity
from conventions.config_keys import CONFIGS
from conventions.run_format import ENDED, read_rows, read_status
from conventions.sentence import one_sentence
from harness.process import Process
from harness.sweep.local import cores, visible_gpus
from scripts import report, speedup

EXPERIMENTS = CONFIGS / "experiment"
FOLDER = "results/demo"
PROBED = 20  # updates of each run in the probe; the first half of them warms up
SWEEP = (sys.executable, str(CONFIGS.parent / "train.py"), "-m", "launcher=local", "launcher.threads=1", "resume=true")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=(__doc__ or "").split("\n")[0])
    parser.parse_args(arguments)
    with one_sentence():
        runs = {path.stem: Path(_read(path)["run_dir"]) for path in sorted(EXPERIMENTS.glob("demo_*.yaml"))}
        left = [name for name, folder in runs.items() if read_status(folder) not in ENDED]
        if left:
            plan = _read(EXPERIMENTS / "demo.yaml")
            print(f"{len(left)} runs; a probe of {PROBED} updates each ...", flush=True)
            seconds = quantity.seconds(probe(left, plan))
            print(f"{plan['steps']:,} updates each take about {seconds} on this machine as busy as it is.", flush=True)
            if code := Process([*SWEEP, f"experiment={','.join(left)}"]).wait().code:
                raise SystemExit(code)
    speedup.main([FOLDER])
    report.main([FOLDER])


def probe(names: Sequence[str], plan: Mapping[str, Any]) -> float:
    """Estimate the seconds that the runs will take side by side, by the same sweep over a few updates.

    Raises ValueError if a run of the probe fails.
    """
    with tempfile.TemporaryDirectory(prefix="halfstep-probe-") as folder:
        few = {"steps": PROBED, "eval.every": PROBED, "log.every": PROBED // 2}
        place = {"run_dir": f"{folder}/${{optimizer.name}}", "hydra.sweep.dir": f"{folder}/sweep"}
        overrides = [f"{key}={value}" for key, value in {**few, **place}.items()]
        began = time.monotonic()
        with Process([*SWEEP, f"experiment={','.join(names)}", *overrides], log=Path(folder, "log")) as process:
            if (ending := process.wait()).code:
                raise ValueError(f"the probe failed: {ending.last_words}")
        own = time.monotonic() - began  # starting the processes and preparing the corpus are in it
        found = [read_rows(path) for path in Path(folder).glob("*/metrics.jsonl")]
    work = [remaining(rows, plan["steps"], plan["eval"]["every"]) for rows in found]
    return own + span(work, len(visible_gpus()) or cores())


def remaining(rows: Sequence[Mapping[str, Any]], steps: int, eval_every: int) -> float:
    """Seconds of a run beyond those of its probe, whose rows these are: its updates and its evaluations."""
    at = {row["step"]: row for row in rows}
    update = (at[PROBED]["seconds/total"] - at[PROBED // 2]["seconds/total"]) / (PROBED - PROBED // 2)
    evaluation = at[PROBED]["seconds/evaluate"] / 2  # before the first update and after the last
    return (steps - PROBED) * update + (steps // eval_every - 1) * evaluation


def span(work: Sequence[float], places: int) -> float:
    """Seconds from the first start to the last end, where each place takes the next run as soon as it is free."""
    free = [0.0] * places
    for seconds in work:
        free[free.index(min(free))] += seconds
    return max(free)


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
