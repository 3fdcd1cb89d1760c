"""Downstream scores: two runs on a task of their own, by the harness itself; tables, claims and W&B read the file."""

import json
import math

import pytest
import torch

from data.tokenizer_export import as_transformers
from harness.scoring import MISSING, Scoring
from judge.claims.claim import Quantity
from judge.claims.measure import values
from judge.comparison import compare
from judge.downstream import FILE, mean_above_chance, metric, over_seeds, read_scores
from judge.means import scores_by_arm
from judge.records import find_runs
from scripts import downstream, report
from scripts.export import load_run
from tests.command import in_process
from tests.study import write_run

TASK = """task: opposites
dataset_path: json
dataset_kwargs: {data_files: {validation: QUESTIONS}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}]
"""
QUESTIONS = [
    {"question": f"def f{n}(self", "choices": [", x):", "%q#", " zzz"][: 2 + n % 2], "label": n % 2} for n in range(12)
]


def outcome(value: float, **changes) -> dict:
    return {"metric": "acc", "value": value, "stderr": 0.1, "samples": 12, "chance": 0.5, **changes}


def scored(run, **tasks):
    (run / FILE).write_text(json.dumps({"schema": 1, "tasks": tasks}))


def test_a_score_above_chance_is_what_core_has():
    tasks = {"a": outcome(0.75), "b": outcome(0.25, chance=0.0), "perplexity": outcome(31.0)}
    assert mean_above_chance(tasks) == pytest.approx((0.5 + 0.25) / 2)
    assert metric(tasks, "downstream/mean") == pytest.approx(0.375)
    assert metric(tasks, "downstream/a") == 0.75
    assert metric(tasks, "downstream/c") is None


def test_an_interval_is_over_seeds_and_of_one_run_over_samples():
    three = over_seeds([{"a": outcome(value)} for value in (0.5, 0.6, 0.7)], "a")
    assert three.value == pytest.approx(0.6)
    assert three.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # Student's t, 2 df
    one = over_seeds([{"a": outcome(0.5)}], "a")
    assert one.half_width == pytest.approx(0.196)
    assert over_seeds([{"a": outcome(0.5)}, {}], "a") is None
    assert over_seeds([{"a": outcome(0.5)}, {"a": outcome(0.6)}], "a").half_width is None


def test_tables_reports_and_metrics_read_them(tmp_path, undrawn):
    for seed in range(3):
        scored(write_run(tmp_path, "adamw", seed=seed), boolq=outcome(0.5 + seed / 10), copa=outcome(0.6))
        scored(write_run(tmp_path, "soap", seed=seed), boolq=outcome(0.6 + seed / 10))
    comparison = compare(find_runs(tmp_path), baseline="adamw")
    grid = scores_by_arm(comparison)
    # A mean over one task is not held against a mean over two.
    assert grid.header == ["optimizer", "boolq", "copa", "mean above chance (scored in different ways)"]
    assert grid.rows[0][1:] == ["0.600 ± 0.248", "0.600 ± 0.000", "none"]
    assert grid.rows[1][1:] == ["0.700 ± 0.248", "none", "none"]
    page = report.render(comparison)
    assert "0.600 ± 0.248" in page
    assert find_runs(tmp_path)[0].last("downstream/boolq") == 0.5
    for run in find_runs(tmp_path):
        (run.folder / FILE).unlink()
    assert scores_by_arm(compare(find_runs(tmp_path), baseline="adamw")) is None


def test_scores_of_different_ways_are_not_compared(tmp_path):
    for seed in range(3):
        for arm, hashed in [("adamw", "1"), ("soap", "2" if seed else "1")]:
            tasks = {"boolq": outcome(0.5, hash=hashed), "copa": outcome(0.6 + seed / 10, hash="1")}
            scored(write_run(tmp_path, arm, seed=seed), **tasks)
    grid = scores_by_arm(compare(find_runs(tmp_path), baseline="adamw"))
    named = [title.endswith("(scored in different ways)") for title in grid.header]
    assert named == [False, True, False, True]
    assert grid.rows[0][1:] == ["none", "0.700 ± 0.248", "none"]
    soap = [run for run in find_runs(tmp_path) if run.optimizer == "soap"]
    assert values(Quantity("downstream/copa", "copa"), soap) is not None
    assert values(Quantity("downstream/boolq", "boolq"), soap) is None


def test_options_that_score_nothing_are_refused(tmp_path):
    how = {"fewshot": None, "limit": None, "include": None, "batch": 8, "device": "cpu"}
    for key, value, words in [("limit", 0, "--limit must be at least 1"), ("batch", 0, "--batch must be at least 1"),
                              ("fewshot", -1, "--fewshot must be at least 0"),
                              ("include", tmp_path / "none", "is no folder of task files")]:  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            Scoring(**{**how, key: value})


def test_words_of_a_corpus_are_no_tokenizer_elsewhere():
    with pytest.raises(ValueError, match="is a corpus's own words"):
        as_transformers("words")


def test_a_broken_file_is_named(tmp_path):
    run = write_run(tmp_path, "adamw")
    (run / FILE).write_text('{"tasks": {"a": {"value": "high"}}}')
    with pytest.raises(ValueError, match=rf"{FILE} is broken \(a score is no number\)"):
        read_scores(run)


def test_without_the_harness_a_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    write_run(tmp_path, "adamw")
    with pytest.raises(SystemExit) as ended:
        downstream.main([str(tmp_path), "--tasks", "boolq"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"halfstep: {MISSING}\n"


def test_two_runs_are_scored_by_the_harness(here, capsys, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: make install EXTRAS=downstream")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for seed in range(2):
        arguments = ("data=stdlib", "context=64", "checkpoint.every=6", f"seed={seed}", f"run_dir=runs/{seed}")
        assert in_process(*arguments).code == 0
    questions = here / "questions.json"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)))
    (here / "tasks").mkdir()
    (here / "tasks" / "opposites.yaml").write_text(TASK.replace("QUESTIONS", str(questions)))
    downstream.main(["runs", "--tasks", "opposites", "--include", "tasks", "--device", "cpu"])
    assert "opposites" in capsys.readouterr().out
    for seed in range(2):
        model, step = load_run(here / "runs" / str(seed))
        tokenizer, right = as_transformers("bytes"), 0
        for each in QUESTIONS:  # the sum of log-probabilities, byte by byte
            sums = []
            for choice in each["choices"]:
                ids = torch.tensor([tokenizer.encode(each["question"] + choice, add_special_tokens=False)])
                with torch.no_grad():
                    steps = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
                sums.append(steps[-len(choice.encode()) :].sum().item())
            right += sums.index(max(sums)) == each["label"]
        found = read_scores(here / "runs" / str(seed))["opposites"]
        assert found["value"] == pytest.approx(right / len(QUESTIONS))
        assert (found["step"], found["samples"], found["metric"]) == (step, 12, "acc")
        assert found["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
        assert found["stderr"] > 0
        assert len(found["hash"]) == 64
    before = (here / "runs" / "0" / FILE).stat().st_mtime_ns
    downstream.main(["runs", "--tasks", "opposites", "--include", "tasks", "--device", "cpu"])
    assert (here / "runs" / "0" / FILE).stat().st_mtime_ns == before  # scored already
    with pytest.raises(SystemExit):
        downstream.main(["runs", "--tasks", "no_such_task", "--include", "tasks", "--device", "cpu"])
    assert "halfstep: --tasks no_such_task: the harness cannot run them (Spec" in capsys.readouterr().err
    (here / "tasks" / "pair.yaml").write_text("group: pair\ntask: [opposites]\n")
    with pytest.raises(SystemExit):
        downstream.main(["runs", "--tasks", "pair", "--include", "tasks", "--device", "cpu"])
    assert "without a score of its own: give --tasks opposites" in capsys.readouterr().err
