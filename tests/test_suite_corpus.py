"""bench_suite's claims on another corpus: a file of its own, once the corpus is there and enough."""

from pathlib import Path

import pytest

from judge.records import read_run
from scripts import bench_suite
from scripts.suite import corpus
from scripts.suite.claim_plan import Plan, check_data
from scripts.suite.folder import Folder
from tests.claimed import train
from tests.study import write_run


def test_a_claim_on_another_corpus_is_a_file_of_its_own(tmp_path):
    data = check_data(["data=local", "data.files=[a.jsonl,b.jsonl]", "eval.tokens=1000"])
    claim = Plan("small", [], data, {"soap": 0.5}, 0, []).find("soap_40_35", Folder(tmp_path), []).claim
    assert claim.name == "soap_40_35.local"
    chosen = claim.scale("small").overrides("30m_large", "soap")
    assert (chosen["data"], chosen["data.files"]) == ("local", ["a.jsonl", "b.jsonl"])
    assert (chosen["batch.tokens"], chosen["optimizer.lr"]) == (131072, 0.5)
    assert claim.scale("small").overrides("30m_large", "adamw")["optimizer.lr"] == 2e-3
    assert claim.scale("small").may_say.endswith("On data=local, not on the corpus of the claim.")


def test_a_corpus_may_be_corrected_until_it_has_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong, right = (Plan("small", [], ["data=local", f"data.files={name}"], {}, 0, []) for name in ("c.txt", "d.txt"))
    found = wrong.find("soap_40_35", Folder(tmp_path), [])
    assert not found.claim.path.exists()  # until the corpus is there
    found.write()
    assert right.find("soap_40_35", Folder(tmp_path), []).claim.scale("small").config["data.files"] == "d.txt"
    train(found.claim, "small", Path("results/runs"))
    with pytest.raises(ValueError, match=r"soap_40_35.local.yaml was written for other --data"):
        right.find("soap_40_35", Folder(tmp_path), [])
    wrong.find("soap_40_35", Folder(tmp_path), [])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (["data=nowhere"], "--data: the arm sgd of tiny/pico: data=nowhere is not there"),
        (["data=local", "data.files=none-*.txt"], "--data: data.files: there is no file at none-*.txt"),
        (["data=local", "data.files=a.txt", "data.tokenizer=bytes", "data.val_share=0.5", "eval.tokens=65536"],
         "--data: eval.tokens asks for 512 windows"),
    ],
)  # fmt: skip
def test_a_corpus_is_looked_at_before_anything_is_written(tmp_path, monkeypatch, capsys, data, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"line {i} of a text\n" for i in range(3000)))
    line = ["--part", "claims", "--device", "cpu", "--scale", "tiny", "--output", "device", "--only", "adahessian_lm"]
    with pytest.raises(SystemExit, match="2"):
        bench_suite.main([*line, "--set", f"data.dir={tmp_path / 'cache'}", "--data", *data])
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.yaml"))
    assert not (tmp_path / "results").exists()


def test_runs_on_other_tokens_and_of_another_device_are_refused(tmp_path):
    run = read_run(write_run(tmp_path / "study"))
    key = corpus.section(run.config)
    corpus.refuse_others([run], {key: "abc", "another": "xyz"}, "NVIDIA H100")
    with pytest.raises(ValueError, match=r"was trained on other tokens than --data prepares now"):
        corpus.refuse_others([run], {key: "xyz"}, None)
    with pytest.raises(ValueError, match=r"is of the device NVIDIA H100 and not of NVIDIA H200"):
        corpus.refuse_others([run], {}, "NVIDIA H200")
