"""Build the W&B run of any run's folder from its metrics.jsonl: what the mirror missed, or all of it.

    python -m scripts.mirror results/runs/my_study
    python -m scripts.mirror results/runs/my_study/my_run --mode offline

A folder stands for all runs below it. Where W&B has a run already it gets the rows that are missing, and none twice.
Expect a line for each run: where W&B shows it, or the command that uploads it.
"""

from collections.abc import Sequence
from typing import Any

from conventions.keywords import bind
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from harness.wandb_tracker import WandbTracker
from judge.downstream import PREFIX
from judge.records import Run, find_runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Mirror the runs that the command line names."""
    parser = Arguments.of("scripts.mirror", __doc__)
    parser.add_argument("runs", nargs="+", type=path_argument, help="a run's folder, or a folder of runs")
    parser.add_argument("--mode", choices=["online", "offline"], help="default: as the run has it, or else online")
    parser.add_argument("--project", help="in W&B; default: as the run has it, or else halfstep")
    parser.add_argument("--entity", help="W&B's user or team; default: as the run has it, or else your own")
    options = parser.parse_args(arguments)
    chosen = {key: value for key, value in vars(options).items() if key != "runs" and value is not None}
    with one_sentence():
        for run in [run for place in options.runs for run in find_runs(place)]:
            if run.status == "running":
                print(f"{run.folder} is still running: its own mirror serves it")
            else:
                mirror(run, chosen)


def mirror(run: Run, chosen: dict[str, Any]) -> None:
    """Send W&B what it lacks of a run, by the keys of the run's own tracker and those that are chosen."""
    section = run.section("tracker")
    own = section if section.get("name") == "wandb" and section.get("mode") != "disabled" else {}
    keywords = bind(WandbTracker, {**own, **chosen}, "tracker", ["folder", "config", "manifest"])
    tracker = WandbTracker(run.folder, run.config, run.manifest, **keywords)
    tracker.close(run.status, {f"{PREFIX}{task}": float(score["value"]) for task, score in run.scores.items()})


if __name__ == "__main__":
    main()
