"""Downstream scores: two runs on a task of their own, by the harness itself; tables, claims and W&B read the file."""

import json
import math

import pytest
import torch

from data.tokenizer_export import as_transformers
from harness.scoring import MISSING, Scoring, hash_files
from judge.claims.claim import Quantity
from judge.claims.measure import values
from judge.comparison import compare
from judge.downstream import FILE, mean_above_chance, metric, over_seeds, read_scores
from judge.means import scores_by_arm
from judge.records import find_runs
from models.base import LanguageModel
from models.hf import for_evaluation, to_transformers
from models.hf_own import OwnModel
from models.llama import Llama
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
# A task of likelihoods has a score with all digits; one of texts has the model write.
GOES_ON = (
    TASK.partition("output_type")[0].replace("opposites", "goes_on")
    + """output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
"""
)
WRITES = (
    TASK.partition("output_type")[0].replace("opposites", "writes")
    + """output_type: generate_until
doc_to_text: "{{question}}{{choices[0] * label}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""
)
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


@pytest.fixture
def tasks(here, monkeypatch):
    """The options that score a run on a task of files that lie here."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: make install EXTRAS=downstream")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    questions = here / "questions.json"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)))
    (here / "tasks").mkdir()
    for name, text in [("opposites", TASK), ("goes_on", GOES_ON), ("writes", WRITES)]:
        (here / "tasks" / f"{name}.yaml").write_text(text.replace("QUESTIONS", str(questions)))
    return ["--include", "tasks", "--device", "cpu", "--tasks"]


def train(*arguments: str) -> None:
    assert in_process("data=stdlib", "context=64", "checkpoint.every=6", *arguments).code == 0


def share_right(model: LanguageModel) -> float:
    """Return the score on `opposites`, from sums of log-probabilities, byte by byte."""
    tokenizer, right = as_transformers("bytes"), 0
    for each in QUESTIONS:
        sums = []
        for choice in each["choices"]:
            ids = torch.tensor([tokenizer.encode(each["question"] + choice, add_special_tokens=False)])
            with torch.no_grad():
                steps = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
            sums.append(steps[-len(choice.encode()) :].sum().item())
        right += sums.index(max(sums)) == each["label"]
    return right / len(QUESTIONS)


def test_two_runs_are_scored_by_the_harness(here, tasks, capsys):
    for seed in range(2):
        train(f"seed={seed}", f"run_dir=runs/{seed}")
    downstream.main(["runs", *tasks, "opposites"])
    assert "opposites" in capsys.readouterr().out
    for seed in range(2):
        model, step = load_run(here / "runs" / str(seed))
        found = read_scores(here / "runs" / str(seed))["opposites"]
        assert found["value"] == pytest.approx(share_right(model))
        assert (found["step"], found["samples"], found["metric"]) == (step, 12, "acc")
        assert found["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
        assert found["stderr"] > 0
        assert len(found["hash"]) == 64
    before = (here / "runs" / "0" / FILE).stat().st_mtime_ns
    downstream.main(["runs", *tasks, "opposites"])
    assert (here / "runs" / "0" / FILE).stat().st_mtime_ns == before  # scored already
    with pytest.raises(SystemExit):
        downstream.main(["runs", *tasks, "no_such_task"])
    assert "halfstep: --tasks no_such_task: the harness cannot run them (Spec" in capsys.readouterr().err
    (here / "tasks" / "pair.yaml").write_text("group: pair\ntask: [opposites]\n")
    with pytest.raises(SystemExit):
        downstream.main(["runs", *tasks, "pair"])
    assert "without a score of its own: give --tasks opposites" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["olmo_360m", "algoperf_lm"])
def test_a_model_without_a_class_in_transformers_is_scored_as_it_is(here, tasks, preset):
    sizes = {"layers": 2, "heads": 2, "width": 64, "hidden": 128}
    train(f"model={preset}", *(f"model.{key}={value}" for key, value in sizes.items()), "run_dir=run")
    model, _ = load_run(here / "run")
    with pytest.raises(ValueError, match="transformers has no class with"):
        to_transformers(model)
    downstream.main(["run", *tasks, "opposites,goes_on,writes"])
    scores = read_scores(here / "run")
    assert scores["opposites"]["value"] == pytest.approx(share_right(model))
    assert {name: (each["metric"], each["samples"]) for name, each in scores.items()} == {
        "opposites": ("acc", 12), "goes_on": ("perplexity", 12), "writes": ("exact_match", 12)
    }  # fmt: skip


def test_both_ways_of_scoring_have_equal_numbers(here, tasks, monkeypatch):
    train("model=llama_pico", "run_dir=run")
    both = []
    for way in (to_transformers, OwnModel):
        monkeypatch.setattr(downstream, "for_evaluation", way)
        downstream.main(["run", *tasks, "opposites,goes_on,writes"])
        both.append(read_scores(here / "run"))
        (here / "run" / FILE).unlink()
    exported, own = both
    assert own.keys() == exported.keys() == {"opposites", "goes_on", "writes"}
    for name, score in exported.items():
        assert own[name]["value"] == pytest.approx(score["value"], rel=1e-5), name
        assert {**own[name], "value": score["value"]} == score


def test_a_model_of_ours_does_what_its_export_does():
    torch.manual_seed(0)
    model = Llama(layers=2, heads=2, width=32, hidden=48, context=32, vocabulary=64, init_std=0.2)
    ids = torch.randint(0, 64, (3, 12))
    expected = model(ids).detach()
    theirs, own = to_transformers(model), OwnModel(model)
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[1, :11] = 0  # padding on the left, as the harness has it where a model writes
    options = {"max_length": 24, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    with torch.no_grad():
        assert torch.equal(own(ids).logits, expected)  # its weights are not drawn anew
        padded, reference = (each(ids, attention_mask=mask).logits[mask == 1] for each in (own, theirs))
        torch.testing.assert_close(padded, reference, atol=1e-4, rtol=1e-4)
        written = [each.generate(ids, attention_mask=mask, **options) for each in (own, theirs)]
    assert torch.equal(*written)
    assert written[0].shape == (3, 24)


def test_only_what_has_no_class_is_taken_as_it_is():
    sizes = {"layers": 1, "heads": 2, "width": 32, "context": 32, "vocabulary": 64}
    assert type(for_evaluation(Llama(**sizes))).__name__ == "LlamaForCausalLM"
    for options in ({"mlp": "gelu", "norm": "layer", "qk_norm": "width", "fused_qkv": True}, {"qk_norm": "l2"}):
        own = for_evaluation(Llama(**sizes, **options))
        assert isinstance(own, OwnModel)
        assert not own.training


def test_an_edited_task_is_another_one(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "opposites.yaml").write_text(TASK)
    (tmp_path / "data" / "questions.json").write_text("[]")
    before = hash_files(tmp_path)
    assert hash_files(tmp_path) == before
    (tmp_path / "data" / "questions.json").write_text("[1]")
    assert hash_files(tmp_path) != before
    (tmp_path / "data" / "questions.json").write_text("[]")
    (tmp_path / "data" / "questions.json").rename(tmp_path / "data" / "others.json")
    assert hash_files(tmp_path) != before
