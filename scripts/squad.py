"""Fine-tune runs of BERT on SQuAD v1.1 with a fixed budget, and score them: `python -m scripts.downstream squad`.

    python -m scripts.downstream squad results/runs/my_study
    python -m scripts.downstream squad results/runs/my_study --questions my_squad --seeds 3
    python -m scripts.downstream squad results/runs/my_study --questions made_up

The budget is that of MKOR's authors for BERT-Large (Mohammad-Mozaffari/mkor, examples/bert/scripts/run_squad_local.sh):
2 epochs, batches of 4, a rate of 3e-5 after a tenth of warm-up, windows of 384 tokens. Theirs has dropout and Adam
without bias correction; here is neither. --questions is a folder with train-v1.1.json and dev-v1.1.json, or `made_up`:
a made-up task for models too small for SQuAD, whose scores have names and a budget of their own. Expect squad_f1 and
squad_exact, or made_up_f1 and made_up_exact, between 0 and 1 in each run's downstream.json.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from conventions.grid import Grid
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from conventions.terminal_table import table_text
from data.made_up import made_up_questions
from data.questions import Question, Questions, read_squad
from data.spans import Cutting, Window, answers_of, encoder, windows_of
from data.tokenizer import build as build_tokenizer
from harness.answers import exact_match, f1
from harness.device import resolve_device
from harness.fine_tuning import Budget, Examples, fine_tune, logits_of, spread
from judge.downstream import add_scores, metric, read_scores, shown
from judge.records import find_runs
from models.bert import BERT
from models.span import SpanPredictor
from optimizers import build_optimizer
from scripts.export import load_run, tokenizer_of

MADE_UP = "made_up"
BUDGETS = {MADE_UP: Budget(epochs=1, batch=16, rate=2e-3), "squad": Budget()}
LENGTHS = {MADE_UP: 32, "squad": Cutting.length}
VERSION = 1  # of what is done here: another one's scores are not comparable


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.downstream squad", __doc__)
    parser.add_argument("runs", nargs="+", type=path_argument, help="a run's folder, or a folder of runs")
    parser.add_argument("--questions", help=f"a folder with SQuAD's two files, or {MADE_UP}; default: from the Hub")
    for key, kind, about in [("epochs", float, "passes over the questions"), ("batch", int, "windows in an update"),
                             ("rate", float, "peak of the learning rate")]:  # fmt: skip
        default = getattr(BUDGETS["squad"], key)
        parser.add_argument(f"--{key}", type=kind, help=f"{about}; default: {default:g}, or what {MADE_UP} has")
    parser.add_argument("--seeds", type=int, default=1, help="fine-tunings of each run (%(default)s)")
    parser.add_argument("--device", default="auto", help="%(default)s")
    options = parser.parse_args(arguments)
    with one_sentence():
        if options.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {options.seeds}")
        device = resolve_device(options.device)
        task = MADE_UP if options.questions == MADE_UP else "squad"
        given = {key: getattr(options, key) for key in ("epochs", "batch", "rate")}
        budget = replace(BUDGETS[task], **{key: value for key, value in given.items() if value is not None})
        runs = [run.folder for place in options.runs for run in find_runs(place)]
        questions = made_up_questions() if task == MADE_UP else read_squad(options.questions)
        rows = [[run.name, *score(run, task, questions, budget, options.seeds, device)] for run in runs]
    print(table_text(Grid("", ["run", f"{task}_f1", f"{task}_exact"], rows)))
    print(f"{len(questions.asked):,} questions, {questions.source}; {budget.epochs:g} epochs, seeds: {options.seeds}")


def score(run: Path, task: str, questions: Questions, budget: Budget, seeds: int, device: str) -> list[str]:
    """Score a run, unless it was scored in this very way; write downstream.json, and return the two scores as text."""
    names = (f"{task}_f1", f"{task}_exact")
    if (tokenizer := tokenizer_of(run)) is None:
        raise ValueError(f"{run}: its config names no data.tokenizer, and questions are text")
    model, step = load_run(run)
    if not isinstance(model, BERT):
        raise ValueError(f"{run} is no BERT: an answer in a passage is found by an encoder, model.family=bert")
    cutting = Cutting(length=min(LENGTHS[task], model.context))
    settings = {**asdict(budget), **asdict(cutting), "seeds": seeds, "questions": questions.sha256}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    known = {"step": step, "version": VERSION, "hash": digest}
    held = read_scores(run)
    if any(held.get(name, {}).get(key) != known[key] for name in names for key in known):
        by_seed = [answer(model, tokenizer, questions, cutting, budget, seed, device) for seed in range(seeds)]
        truths = [[text for text, _ in each.answers] for each in questions.asked]
        facts = {**known, "settings": settings, "source": questions.source, "torch": torch.__version__}
        scores = {}
        for name, measure in zip(names, (f1, exact_match), strict=True):
            each = [[measure(*pair) for pair in zip(answers, truths, strict=True)] for answers in by_seed]
            value, error = spread(each)
            means = [float(np.mean(row)) for row in each]
            scores[name] = {"metric": measure.__name__, "value": value, "stderr": error, "samples": len(truths),
                            "chance": None, "by_seed": means, **facts}  # fmt: skip
        held = add_scores(run, scores)
    return [shown(metric(held, name)) for name in names]


def answer(
    pretrained: BERT, tokenizer: str, questions: Questions, cutting: Cutting, budget: Budget, seed: int, device: str
) -> list[str]:
    """Fine-tune a copy of the model with a seed, and return its answers."""
    text = build_tokenizer(tokenizer)
    _, cls, sep = text.special or (text.vocabulary, text.vocabulary + 1, text.vocabulary + 2)
    encode = encoder(tokenizer)

    def cut(each: list[Question]) -> tuple[list[Window], np.ndarray]:
        windows = list(windows_of(each, encode, cls, sep, cutting))
        return windows, np.stack([window.tokens for window in windows])

    model = SpanPredictor(copy.deepcopy(pretrained), sep, torch.Generator().manual_seed(seed)).to(device)
    windows, inputs = cut(questions.train)
    targets = np.array([window.answer for window in windows], np.int64)
    optimizer = build_optimizer(
        "adamw", model, lr=budget.rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=budget.weight_decay
    )
    fine_tune(model, optimizer, Examples(inputs, targets, budget.batch, seed, device), budget, device)
    windows, inputs = cut(questions.asked)
    return answers_of(questions.asked, windows, logits_of(model, inputs, device), cutting)
