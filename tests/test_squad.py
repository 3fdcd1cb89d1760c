"""SQuAD's F1: its scores beside known ones, windows and answers, and the fine-tuning of a run from end to end."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from data import questions
from data.made_up import KINDS, made_up_questions
from data.questions import FILES, Question, Questions, read_squad
from data.spans import Cutting, answers_of, encoder, windows_of
from harness.answers import exact_match, f1, normalized
from harness.fine_tuning import Budget, Examples, spread
from harness.flops import count
from judge.claims.claim_file import read_claim
from judge.claims.tables import arms_grid
from judge.downstream import FILE, add_scores, metric, read_scores
from judge.records import find_runs
from models import build_model
from models.span import SpanPredictor
from scripts import downstream, squad
from tests.claimed import SPEEDUP, scale, train, verified, write_claim
from tests.refusal import refusal
from tests.study import write_run

CLS, SEP = 257, 258
SHAPE = {"layers": 1, "heads": 2, "width": 32, "context": 96, "vocabulary": 320}
PASSAGE = "Zürich lies on the Limmat. Its university, founded in 1833, is the largest in Switzerland."


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "overlap"),
    [
        ("the Limmat", ["Limmat"], 1, 1),
        ("The  limmat.", ["river", "a Limmat"], 1, 1),
        ("in 1833", ["1833"], 0, 2 / 3),
        ("the big black cat", ["a cat", "black cats"], 0, 1 / 2),  # 1 of 3, of 1; 1 of 3, of 2
        ("cat cat", ["cat"], 0, 2 / 3),  # a word counts as often as it stands on both sides
        ("", ["x"], 0, 0),
        ("dog", ["cat"], 0, 0),
    ],
)
def test_scores_are_those_of_the_official_program(answer, truths, exact, overlap):
    assert exact_match(answer, truths) == exact
    assert f1(answer, truths) == pytest.approx(overlap)


def test_texts_are_compared_without_case_punctuation_and_articles():
    assert normalized("An  apple-pie, THE pie!") == "applepie pie"
    assert normalized("theatre") == "theatre"


def test_the_error_is_over_questions_and_over_fine_tunings():
    value, error = spread([[1.0, 0.0, 1.0, 1.0]])
    assert (value, error) == (0.75, pytest.approx(0.5 / 2))  # s = .5 of 4 questions
    value, error = spread([[1.0, 0.0], [1.0, 1.0]])
    assert (value, error) == (0.75, pytest.approx((0.125 / 2 + 0.125 / 2) ** 0.5))
    assert spread([[1.0]]) == (1.0, None)


def windows(cutting, *, passage=PASSAGE, answer="1833", text="When?"):
    question = Question("q", text, passage, ((answer, passage.index(answer)),))
    return question, list(windows_of([question], encoder("bytes"), CLS, SEP, cutting))


@pytest.mark.parametrize("length", [24, 40, 120])
def test_windows_hold_the_whole_passage_and_each_token_counts_in_one(length):
    cutting = Cutting(length=length, stride=10, question=4)
    _, each = windows(cutting)
    counted = np.concatenate([window.characters[window.most] for window in each])
    assert sorted(set(map(tuple, counted))) == sorted(set(map(tuple, encoder("bytes")(PASSAGE)[1])))
    assert len(counted) == len(PASSAGE.encode())  # u umlaut is two bytes of one character
    for window in each:
        assert list(window.tokens[:6]) == [CLS, *b"When", SEP]
        held = window.tokens[window.first : window.first + len(window.characters)]
        assert bytes(held.tolist()) in PASSAGE.encode()
        assert window.tokens[window.first + len(held)] == SEP
        begin, end = window.answer
        if begin:
            assert bytes(window.tokens[begin : end + 1].tolist()) == b"1833"
    assert any(window.answer != (0, 0) for window in each)
    assert (len(each) == 1) == (length == 120)
    long = "x" * 300
    for window in windows(Cutting(length=64, stride=100), passage=f"{long} 1833")[1][:2]:  # no token falls between two
        assert len(window.characters) == 64 - 5 - 3


def test_a_token_that_many_windows_hold_counts_where_it_has_most_around_it():
    _, each = windows(Cutting(length=28, stride=5), passage=PASSAGE[1:].replace("ü", "u"))
    for place, window in enumerate(each):
        for i in np.flatnonzero(window.most):
            mine = min(i, len(window.most) - 1 - i)
            for other in each[max(place - 1, 0) : place + 2]:
                held = np.flatnonzero((other.characters == window.characters[i]).all(1))
                assert all(min(j, len(other.most) - 1 - j) <= mine for j in held[-1:])


def test_the_answer_is_the_best_pair_that_is_possible():
    """By hand: every pair of every window, of the best 6 beginnings and ends."""
    cutting, random = Cutting(length=30, stride=8, answer=5, best=6), np.random.RandomState(0)
    question, each = windows(cutting)
    for _ in range(20):
        logits = random.standard_normal((len(each), 2, cutting.length)).astype(np.float32)
        best, text = -np.inf, ""
        for window, (begins, ends) in zip(each, logits, strict=True):
            top = [set(np.sort(x)[-6:]) for x in (begins, ends)]
            for i, j in product(range(len(window.characters)), repeat=2):
                begin, end = begins[i + window.first], ends[j + window.first]
                possible = i <= j < i + 5 and window.most[i] and begin in top[0] and end in top[1]
                if possible and begin + end > best:
                    best, text = begin + end, PASSAGE[window.characters[i, 0] : window.characters[j, 1]].strip()
        assert answers_of([question], each, logits, cutting) == [text]


def test_a_question_that_fills_its_window_is_refused():
    with pytest.raises(ValueError, match="a window of 8 tokens is too short for the question 'When\\?'"):
        windows(Cutting(length=8))


def test_made_up_questions_are_the_same_everywhere_and_have_their_answers():
    made = made_up_questions(train=50, asked=20)
    assert made.sha256 == made_up_questions(train=50, asked=20).sha256
    assert made.sha256.startswith("dddf57ac87f8")
    for question in [*made.train, *made.asked]:
        ((answer, start),) = question.answers
        assert question.passage[start : start + len(answer)] == answer
        assert len(question.passage) + len(question.text) + 3 <= 29
        kinds = {"7": answer.isdigit(), "A": answer.isupper(), "(": question.passage[start - 1] == "("}
        assert [kind for kind, fits in kinds.items() if fits] == [question.text]
    assert {question.text for question in made.train} == {*KINDS}


def squad_folder(folder, answer_start=3):
    each = {"id": "1", "question": "Where?", "answers": [{"text": "here", "answer_start": answer_start}]}
    text = json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": "is here now", "qas": [each]}]}]})
    for name in FILES:
        (folder / name).write_text(text)
    return str(folder)


def test_squad_is_read_from_its_two_files(tmp_path):
    held = read_squad(squad_folder(tmp_path))
    assert held.asked == [Question("1", "Where?", "is here now", (("here", 3),))]
    with pytest.raises(ValueError, match=r"train-v1.1.json is no file of SQuAD v1.1 \(the answer 'here' of question 1"):
        read_squad(squad_folder(tmp_path, answer_start=4))
    (tmp_path / FILES[0]).write_text("{}")
    with pytest.raises(ValueError, match=r"train-v1.1.json is no file of SQuAD v1.1"):
        read_squad(str(tmp_path))
    (tmp_path / FILES[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*train-v1.1.json; the folder must hold"):
        read_squad(str(tmp_path))


def test_without_a_network_a_sentence_says_what_to_do(monkeypatch):
    def gone(*arguments):
        raise ConnectionError("no route")

    monkeypatch.setattr(questions, "resolve", gone)
    with pytest.raises(ConnectionError, match="run again with a network, or give --questions FOLDER"):
        read_squad()


def test_filler_is_not_looked_at_and_flops_are_torchs_own_count():
    model = SpanPredictor(build_model("bert", 0, **SHAPE), SEP, torch.Generator().manual_seed(0))
    window = windows(Cutting(length=96, stride=50))[1][0]
    tokens = torch.from_numpy(window.tokens)[None].repeat(2, 1)
    tokens[:, 40] = SEP
    tokens[1, 41:] = 7
    real = model(tokens)[..., :41]
    assert torch.allclose(real[0], real[1], atol=1e-6)
    tokens[1, 20] = 7
    assert not torch.allclose(model(tokens)[1, :, :41], real[1], atol=1e-6)
    targets = torch.tensor([[10, 12], [0, 0]])
    losses = model(tokens, targets)
    logits = model(tokens)
    byhand = -sum(logits[i, j].log_softmax(0)[targets[i, j]] for i in range(2) for j in range(2))
    assert (losses.sum.item(), losses.count.item()) == (pytest.approx(byhand.item(), rel=1e-5), 4)
    with sdpa_kernel(SDPBackend.MATH):  # whose products torch counts
        counted = count(lambda: model(tokens, targets).sum.backward())
    assert model.flops_per_token(96) * 2 * 96 == pytest.approx(counted, rel=0.01)
    assert set(model.roles()) == set(model.parameters())


def test_batches_are_pure_in_seed_and_step_and_an_epoch_sees_all():
    inputs, targets = np.arange(10)[:, None], np.zeros((10, 2), np.int64)
    one, other = (Examples(inputs, targets, 4, seed=3, device="cpu") for _ in range(2))
    seen = [one.batch(step)[0].flatten().tolist() for step in range(5)]
    assert [other.batch(step)[0].flatten().tolist() for step in (4, 0, 2)] == [seen[4], seen[0], seen[2]]
    whole = [row for rows in seen for row in rows]
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10))
    assert whole[:10] != whole[10:]
    assert Budget(epochs=2, batch=4).updates(10) == 5


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two runs whose weights are those of a small BERT, and few made-up questions."""
    small = made_up_questions(train=24, asked=6)
    monkeypatch.setattr(squad, "made_up_questions", lambda: small)
    for seed in range(2):
        write_run(tmp_path, "lamb", seed=seed, config={"data.tokenizer": "bytes"})
    monkeypatch.setattr(squad, "load_run", lambda run: (build_model("bert", int(run.name[-7]), **SHAPE), 1000))
    monkeypatch.setitem(squad.BUDGETS, squad.MADE_UP, Budget(epochs=1, batch=8, rate=1e-3))
    return tmp_path


def test_runs_are_scored_once_and_to_the_same_value(study, capsys, monkeypatch):
    downstream.main(["squad", str(study), "--questions", "made_up", "--device", "cpu", "--seeds", "2"])
    assert "made_up_f1" in (output := capsys.readouterr().out)
    assert "6 questions, made up; 1 epochs, seeds: 2" in output
    runs = find_runs(study)
    for run in runs:
        score, exact = read_scores(run.folder)["made_up_f1"], read_scores(run.folder)["made_up_exact"]
        assert score["value"] == pytest.approx(np.mean(score["by_seed"]))
        assert 0 <= exact["value"] <= score["value"] <= 1
        assert (score["samples"], score["step"], score["metric"], exact["metric"]) == (6, 1000, "f1", "exact_match")
        assert score["settings"]["questions"] == made_up_questions(train=24, asked=6).sha256
        assert run.last("downstream/made_up_f1") == score["value"]
        assert metric(read_scores(run.folder), "downstream/mean") is None  # a score without chance is no part of it
    before = [(run.folder / FILE).read_text() for run in runs]
    answer = squad.answer
    monkeypatch.setattr(squad, "answer", None)  # scored already
    squad.main([str(study), "--questions", "made_up", "--device", "cpu", "--seeds", "2"])
    monkeypatch.setattr(squad, "answer", answer)
    (runs[0].folder / FILE).unlink()
    squad.main([str(study), "--questions", "made_up", "--device", "cpu", "--seeds", "2"])
    assert [(run.folder / FILE).read_text() for run in runs] == before


def test_what_cannot_be_scored_is_refused(study, capsys, monkeypatch):
    arguments = [str(study), "--questions", "made_up", "--device", "cpu"]
    assert "--seeds must be at least 1, not 0" in refusal(capsys, squad.main, *arguments, "--seeds", "0")
    assert "--epochs must be above 0, not 0" in refusal(capsys, squad.main, *arguments, "--epochs", "0")
    assert "--rate must be above 0, not nan" in refusal(capsys, squad.main, *arguments, "--rate", "nan")
    gpt = build_model("gpt2", 0, layers=1, heads=2, width=32, context=96, vocabulary=320)
    monkeypatch.setattr(squad, "load_run", lambda run: (gpt, 1000))
    bert = build_model("bert", 0, **SHAPE)
    monkeypatch.setattr(downstream, "load_run", lambda run: (bert, 1000))
    with pytest.raises(
        ValueError, match=r"does not predict next tokens, which the harness asks for: score it by squad"
    ):
        downstream.score(find_runs(study)[0].folder, ["boolq"], None)
    assert "is no BERT: an answer in a passage is found by an encoder" in refusal(capsys, squad.main, *arguments)


@pytest.mark.slow
def test_a_small_bert_learns_the_made_up_task():
    made = made_up_questions()
    model = build_model("bert", 0, **{**SHAPE, "layers": 2, "width": 64})
    answers = squad.answer(model, "bytes", made, Cutting(length=32), squad.BUDGETS[squad.MADE_UP], 0, "cpu")
    scores = [f1(answer, [question.answers[0][0]]) for answer, question in zip(answers, made.asked, strict=True)]
    assert np.mean(scores) > 0.4  # one word of 5 by chance


def test_another_tasks_questions_have_another_name():
    assert Questions([], [], "").sha256 != made_up_questions(train=1, asked=1).sha256
    assert {*squad.BUDGETS} == {"squad", squad.MADE_UP}


def test_a_downstream_score_stands_in_the_tables_once_runs_have_it(tmp_path):
    quantities = {"f1": {"metric": "downstream/squad_f1", "title": "F1", "scale": 100, "digits": 2}}
    difference = {"says": "higher", "measure": "difference", "quantity": "f1", "arm": "new", "against": "old"}
    path = write_claim(
        tmp_path, {"tiny": scale()}, quantities=quantities, statements=[SPEEDUP, {**difference, "at_least": 0.0}],
        figures=[{"part": "only", "arm": "new", "quantity": "f1", "value": 90.5}],
    )  # fmt: skip
    train(read_claim(path), "tiny", tmp_path)
    before = verified(path, "tiny", tmp_path)
    assert "F1, paper" not in arms_grid(before).header
    assert before.findings[1].main.notes == ("no F1 of new: some run does not know it",)
    for run in find_runs(tmp_path):
        value = (0.6 if run.section("optimizer")["name"] == "soap" else 0.5) + 0.01 * run.seed
        add_scores(run.folder, {"squad_f1": {"metric": "f1", "value": value}})
    after = verified(path, "tiny", tmp_path)
    grid = arms_grid(after)
    assert [row[grid.header.index("F1, paper") :][:2] for row in grid.rows] == [
        ["", "51.00 ± 1.00"],
        ["90.5", "61.00 ± 1.00"],
    ]
    assert after.findings[1].main.estimate.value == pytest.approx(10)
