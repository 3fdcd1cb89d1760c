"""Score runs on downstream tasks by EleutherAI's evaluation harness, or on SQuAD by a fine-tuning of their weights.

    make install EXTRAS=downstream
    python -m scripts.downstream results/runs/my_study --tasks hellaswag,piqa,arc_easy,lambada_openai
    python -m scripts.downstream results/runs/my_study --tasks boolq,cb,copa,sglue_rte --fewshot 2
    python -m scripts.downstream results/runs/my_study --tasks my_task --include my_tasks
    python -m scripts.downstream squad results/runs/my_study        of runs of BERT: scripts/squad.py

A folder stands for all runs below it. The weights are those that val/loss speaks of, of the newest good checkpoint.
Expect a table of scores, and downstream.json in each run's folder, with the harness's version and each task's hash. A
task that is scored already, by the same weights, version, shots and files of --include, is not scored again.
scripts.report shows the scores of a study, a claim may be about `downstream/<task>`, and scripts.mirror brings them to
W&B. --include names a folder of task files (YAML), whose data may be files on this machine: then no network is needed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.grid import Grid
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from conventions.terminal_table import table_text
from data.tokenizer_export import as_transformers
from harness.device import resolve_device
from harness.scoring import Scoring
from judge.downstream import add_scores, metric, read_scores, shown, tasks_of, title
from judge.records import find_runs
from models.hf import for_evaluation
from scripts import squad
from scripts.export import load_run, tokenizer_of


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["squad"]:
        squad.main(arguments[1:])
        return
    parser = Arguments.of("scripts.downstream", __doc__)
    parser.add_argument("runs", nargs="+", type=path_argument, help="a run's folder, or a folder of runs")
    parser.add_argument("--tasks", required=True, help="names of tasks, with commas between")
    parser.add_argument("--include", type=path_argument, help="a folder of task files; the harness's own are left out")
    parser.add_argument("--fewshot", type=int, help="examples in the prompt; default: as the task has it")
    parser.add_argument("--limit", type=int, help="samples of each task, for a try; default: all")
    parser.add_argument("--batch", type=int, default=8, help="sequences in a pass (%(default)s)")
    parser.add_argument("--device", default="auto", help="%(default)s")
    options = parser.parse_args(arguments)
    with one_sentence():
        options.device = resolve_device(options.device)
        how = Scoring(**{key: value for key, value in vars(options).items() if key not in ("runs", "tasks")})
        how.known(0)  # a missing harness is found before a run is read
        names = [name.strip() for name in options.tasks.split(",") if name.strip()]
        runs = [run for place in options.runs for run in find_runs(place)]
        scored = {run.name: score(run.folder, names, how) for run in runs}
    tasks = tasks_of(list(scored.values()))
    rows = [[name, *(shown(metric(scores, task)) for task in tasks)] for name, scores in scored.items()]
    header = ["run", *(title(task) for task in tasks)]
    print(table_text(Grid("", header, rows)))


def score(run: Path, names: list[str], how: Scoring) -> dict[str, dict[str, Any]]:
    """Score a run on the tasks that it lacks; write downstream.json and return what it says of every task."""
    if (tokenizer := tokenizer_of(run)) is None:
        raise ValueError(f"{run}: its config names no data.tokenizer, and tasks are text")
    model, step = load_run(run)
    if not model.causal:
        raise ValueError(f"{run} does not predict next tokens, which the harness asks for: score it by squad RUN...")
    known, held = how.known(step), read_scores(run)
    lacking = [name for name in names if any(held.get(name, {}).get(key, known) != known[key] for key in known)]
    if lacking:
        scores = how.score(lacking, for_evaluation(model), as_transformers(tokenizer), model.context)
        held = add_scores(run, {name: {**known, **scores[name]} for name in lacking})
    return held


if __name__ == "__main__":
    main()
