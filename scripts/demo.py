"""Trains the demo's optimizers side by side over this machine's cores or GPUs, prints who led, and draws the page.

    python -m scripts.demo        # make demo

The runs are the experiments configs/experiment/demo_*.yaml. Expect how long they will take, by a probe (the same sweep
over a few updates), a live table, then the race's table and results/demo/report.html. Finished runs are kept, and one
that was cut off goes on. Each run has one thread: so small a model leaves nothing for a second one to do.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from conventions import quantity
from conventions.config_keys import CONFIGS
from conventions.run_format import ENDED, read_status
from conventions.sentence import Arguments, one_sentence
from conventions.yaml_file import read_yaml
from harness.process import Process
from harness.sweep.probe import PROBED, probe
from scripts import report, speedup

EXPERIMENTS = CONFIGS / "experiment"
FOLDER = "results/demo"
SWEEP = (sys.executable, str(CONFIGS.parent / "train.py"), "-m", "launcher=local", "launcher.threads=1", "resume=true")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.demo", __doc__)
    parser.parse_args(arguments)
    with one_sentence():
        runs = {path.stem: Path(read_yaml(path)["run_dir"]) for path in sorted(EXPERIMENTS.glob("demo_*.yaml"))}
        left = [name for name, folder in runs.items() if read_status(folder) not in ENDED]
        if left:
            plan = read_yaml(EXPERIMENTS / "demo.yaml")
            print(f"{len(left)} runs; a probe of {PROBED} updates each ...", flush=True)
            sweep = [*SWEEP, f"experiment={','.join(left)}"]
            seconds = quantity.seconds(probe(sweep, plan))
            print(f"{plan['steps']:,} updates each take about {seconds} on this machine as busy as it is.", flush=True)
            if code := Process(sweep).wait().code:
                raise SystemExit(code)
    speedup.main([FOLDER])
    report.main([FOLDER])


if __name__ == "__main__":
    main()
