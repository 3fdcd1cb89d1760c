"""data.tokenizer=hf:FOLDER of a claim's runs: one tokenizer for all of them, and the page of the verdict names it."""

import pytest

from harness.config import parse
from harness.probe import Probes
from judge.claims.claim import PapersTokenizer
from judge.claims.claim_file import find_claim, read_claim
from judge.claims.conclusions import section
from judge.claims.tables import render
from judge.records import read_run
from scripts.claims import main
from scripts.study.claim_runs import ClaimRuns, compose_arm
from scripts.study.claim_tokens import check_tokenizer
from scripts.study.run_cost import cost_of
from tests.claimed import change, scale, train, verified, write_claim
from tests.command import trained
from tests.meta_model import on_meta
from tests.t5 import write_t5

pytest.importorskip("transformers")

T5 = {"name": "T5", "vocabulary": 32_100}
SIZE = 3 + 200 + 100


@pytest.fixture
def t5(tmp_path):
    return f"hf:{write_t5(tmp_path / 'where' / 't5', 200)}"


def texts(folder):
    """Files to train and to evaluate on, and the keys that take them."""
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"def the(self): return self of nothing, {name}\n" * 100)
    return ["data=local", f"data.files={folder / 'a.txt'}", f"data.val_files={folder / 'b.txt'}"]


def said(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    return capsys.readouterr().err


def test_a_plan_and_the_runs_have_the_tokenizers_own_size(here, t5):
    """The embedding has a row for each of its tokens, and the FLOPs that are foretold are those of the run."""
    claim = find_claim("soap_40_35")
    asked = ClaimRuns(claim, "tiny", ["pico_large"], [0], [f"data.tokenizer={t5}", "device=cpu"])
    check_tokenizer(asked)
    values = compose_arm(claim, "tiny", "pico_large", "adamw", asked.of_runs)
    assert values["data"]["tokenizer"] == t5
    probes = Probes()
    probes.speeds["gpt2_pico"] = 1e12
    planned = cost_of(parse({**values, "batch": {"tokens": 256, "micro": 2}}), probes)(2)
    how = [f"data.tokenizer={t5}", "steps=2", "batch.tokens=256", "context=128", "eval.tokens=128", "model=gpt2_pico"]
    assert trained(*texts(here), *how, run_dir="out") == "finished"
    run = read_run(here / "out")
    assert run.known("data", "vocabulary") == SIZE
    assert planned.model == run.last("flops/model")
    model = on_meta("gpt2_pico", 320)  # the next multiple of 64
    assert run.known("parameters", "total") == sum(each.numel() for each in model.parameters())


def test_runs_with_another_tokenizer_are_refused(here, t5, capsys):
    path = write_claim(here, {"tiny": scale(parts={"one": {}, "two": {"config": {"batch.tokens": 1024}}})})
    train(read_claim(path), "tiny", here / "results/runs", {"new": 1.5})
    for command in ("plan", "run"):
        error = said([command, str(path), "--part", "two", f"data.tokenizer={t5}"], capsys)
        assert error.count("\n") == 1
        assert "twice-tiny-one" in error  # of any part: the whole claim has the same tokens
        assert f"was trained with data.tokenizer=bytes, and this command would train with {t5}: all runs of a" in error
        assert "give data.tokenizer=bytes, or move" in error
    for folder in (here / "results/runs").glob("*/*/config.yaml"):
        change(folder.parent, "config.yaml", data__tokenizer=t5)
    asked = ClaimRuns(read_claim(path), "tiny", ["one"], [0])
    with pytest.raises(ValueError, match=rf"data\.tokenizer={t5}, and this command would train with bytes"):
        check_tokenizer(asked)
    for where in (t5, t5.replace("where", "elsewhere")):  # whether the tokens are the same, the fingerprint tells
        write_t5(here / "elsewhere" / "t5", 200)
        check_tokenizer(ClaimRuns(read_claim(path), "tiny", ["one"], [0], [f"data.tokenizer={where}"]))


def test_rates_are_tried_on_the_tokens_of_the_runs(here, t5):
    path = write_claim(here, {"tiny": scale(rate_trials=2)})
    ours, theirs = (
        ClaimRuns(read_claim(path), "tiny", ["only"], [0], words) for words in ([], [f"data.tokenizer={t5}"])
    )
    places = [{tuner.folder for tuner in asked.tuners.values()} for asked in (ours, theirs)]
    assert not places[0] & places[1]
    assert {trial.config["data"]["tokenizer"] for trial in theirs.trials()} == {t5}
    assert theirs.plans()["only"].arms["old"].config is None
    same = ClaimRuns(read_claim(path), "tiny", ["only"], [0], ["device=cpu", "data.dir=/elsewhere"])
    assert {tuner.folder for tuner in same.tuners.values()} == places[0]


@pytest.mark.parametrize(("keys", "word", "sentence"), [
    ({}, "hf:/no/folder", "data.tokenizer=hf:/no/folder: there is no such folder"),
    ({}, "gpt3", "data.tokenizer must be bytes, words, an encoding of tiktoken's or hf:FOLDER, not 'gpt3'"),
    ({}, "3", "data.tokenizer must be a string, not 3"),
    ({"config": {"experiment": "scale_tiny", "data.tokenizer": "gpt2"}}, "bytes", "would change the tokenizer that"),
])  # fmt: skip
def test_what_is_no_tokenizer_or_not_the_claims_is_refused(here, monkeypatch, capsys, keys, word, sentence):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = write_claim(here, {"tiny": scale(**keys)})
    assert sentence in said(["run", str(path), f"data.tokenizer={word}"], capsys)


def test_the_papers_own_scale_takes_the_papers_tokenizer_alone(here, t5, capsys):
    plain = write_claim(here)
    error = said(["plan", str(plain), "--scale", "paper", f"data.tokenizer={t5}"], capsys)
    assert "would change the tokens of the paper's own protocol" in error
    assert f"{plain} names no scales.paper.tokenizer that bytes stands for" in error
    error = said(["plan", "soap_40_35", "--scale", "paper", f"data.tokenizer={t5}"], capsys)
    assert f"data.tokenizer={t5} is no tokenizer of 32,100 tokens, as T5's is: at the scale paper" in error
    whole = f"data.tokenizer=hf:{write_t5(here / 'whole', 32_000 - 3)}"
    papers = {each: find_claim(each).scales["paper"] for each in ("soap_40_35", "soap_frequency", "soap_batch")}
    assert {each.tokenizer for each in papers.values()} == {PapersTokenizer(**T5)}
    check_tokenizer(ClaimRuns(find_claim("soap_batch"), "paper", list(papers["soap_batch"].parts), [0], [whole]))
    assert "scales.tiny.tokenizer.size is no key" in said(
        ["plan", str(write_claim(here, {"tiny": scale(tokenizer={**T5, "size": 3})}))], capsys
    )


@pytest.mark.parametrize(("papers", "chosen", "sentence"), [
    (None, None, ""),
    (None, ("hf:/where/t5", 400), " The runs' tokenizer is hf:t5 (400 tokens)."),
    (T5, None, " The tokenizer bytes (256 tokens) stands for T5's (32,100 tokens)."),
    (T5, ("hf:/where/t5", 32_100), " The runs' tokenizer is hf:t5 (32,100 tokens), given for T5's."),
    (T5, ("hf:/where/mine", 400), " The tokenizer hf:mine (400 tokens) stands for T5's (32,100 tokens)."),
])  # fmt: skip
def test_the_page_names_the_tokenizer(tmp_path, papers, chosen, sentence):
    path = write_claim(tmp_path, {"tiny": scale(tokenizer=papers)})
    for run in train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002):
        if chosen:
            change(run, "config.yaml", data__tokenizer=chosen[0])
            change(run, "manifest.json", data__vocabulary=chosen[1])
    verdict = verified(path, "tiny", tmp_path)
    assert f"may say: no more than this{sentence}\n" in render(verdict, "markdown")
    assert f"can say: no more than this{sentence}\n" in section([verdict])


@pytest.mark.slow
def test_a_claim_runs_with_it(here, t5):
    """Trained, for two updates each, and read again: the plan, the runs and the page name the tokenizer."""
    small = {"experiment": "scale_tiny", "eval.tokens": 128, "batch.tokens": 128, "device": "cpu"}
    small |= dict(each.split("=") for each in texts(here))
    arms = {"old": {"config": {"optimizer": "adamw"}, "lengths": [0.5, 1, 2]},
            "new": {"config": {"optimizer": "lion"}}}  # fmt: skip
    path = write_claim(here, {"tiny": scale(config=small, arms=arms, steps=2, seeds=[0])})
    words = [str(path), f"data.tokenizer={t5}"]
    with pytest.raises(SystemExit, match="0"):
        main(["run", *words])
    runs = [read_run(each.parent) for each in (here / "results/runs/twice-tiny-only").rglob("manifest.json")]
    assert {(run.status, run.known("data", "vocabulary")) for run in runs} == {("finished", SIZE)}
    assert len(runs) == 4
    assert f"tokenizer: {t5}" in (here / "results/runs/twice-tiny-only/plan.yaml").read_text()
    main(["plan", *words])
    page = render(verified(path, "tiny", here / "results/runs", 1), "markdown")
    assert f"The runs' tokenizer is hf:t5 ({SIZE} tokens)." in page
