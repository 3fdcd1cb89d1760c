"""A run that begins with another's weights: the same weights, where they are from, and what is refused."""

import hashlib
import json
import shutil

import pytest

from scripts import export
from tests.command import complaint, in_process, interrupted, manifest, rows, trained
from tests.test_resume import assert_same_run

RUN = ("model=gpt2_pico", "data=stdlib", "context=64", "batch.tokens=512", "eval.every=6", "eval.tokens=4096",
       "log.every=3", "checkpoint.every=6", "device=cpu", "seed=1")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, corpus):
    """A run of twelve updates."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ("steps=12", "run_dir=first", "optimizer=schedule_free_adamw", "schedule=constant")
        assert in_process(*RUN, *arguments).code == 0
    return folder / "first"


@pytest.fixture
def first(here, made):
    """The test's own copy of it, whose weights others begin with."""
    return shutil.copytree(made, here / "first")


def test_it_begins_where_the_other_is_evaluated(here, first):
    assert trained(*RUN, "steps=6", "init_from=first", run_dir="second") == "finished"
    assert rows(here / "second")[0]["val/loss"] == pytest.approx(rows(first)[-1]["val/loss"], rel=1e-12)
    origin = manifest(here / "second")["init_from"]
    assert (origin["kind"], origin["step"], origin["source"]) == ("run", 12, str(first))
    assert origin["config_hash"] == manifest(first)["config_hash"]
    assert len(origin["sha256"]) == 64
    (evaluated,) = (first / "checkpoints").glob("step-00000012/evaluated.safetensors")
    assert origin["sha256"] == hashlib.sha256(evaluated.read_bytes()).hexdigest()
    assert manifest(first)["init_from"] is None


def test_it_goes_on_to_the_same_bits_without_the_other(here, first):
    assert trained(*RUN, "steps=12", "init_from=first", run_dir="whole") == "finished"
    interrupted(*RUN, "steps=12", "init_from=first", at=7, run_dir="cut")
    first.rename(here / "away")
    assert trained(*RUN, "steps=12", "init_from=first", run_dir="cut", resume=True) == "finished"
    assert_same_run(here / "cut", here / "whole")
    assert manifest(here / "cut")["init_from"] == manifest(here / "whole")["init_from"]


def test_a_folder_of_transformers_serves_too(here, first):
    pytest.importorskip("transformers")
    export.main(["first", "theirs"])
    assert trained(*RUN, "steps=6", "init_from=theirs", run_dir="second") == "finished"
    assert rows(here / "second")[0]["val/loss"] == pytest.approx(rows(first)[-1]["val/loss"], rel=1e-6)
    assert manifest(here / "second")["init_from"]["kind"] == "transformers"


def test_phases_of_bert_have_one_model(here):
    """Sequences of 32 first, then of 64, as BERT is trained: the table of positions is the same."""
    bert = [key for key in RUN if not key.startswith(("model=", "context="))] + ["model=bert_pico"]
    assert trained(*bert, "context=32", "steps=6", run_dir="one") == "finished"
    assert trained(*bert, "context=64", "steps=6", "init_from=one", run_dir="two") == "finished"
    assert rows(here / "two")[0]["val/loss"] < rows(here / "one")[0]["val/loss"]


def test_without_the_key_a_run_has_the_identity_it_had(here, first):
    config = (first / "config.yaml").read_text()
    assert "init_from: null" in config
    (first / "config.yaml").write_text(config.replace("init_from: null\n", ""))  # a run older than the key
    ended = in_process(*RUN, "steps=12", "run_dir=first", "optimizer=schedule_free_adamw", "schedule=constant",
                       "resume=true")  # fmt: skip
    assert (ended.code, "finished already" in ended.out) == (0, True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["init_from=nowhere"], "init_from=nowhere is no folder of a run (config.yaml) and none of transformers"),
        (["init_from=first", "model=gpt2_nano"], "its embedding.weight is (256, 64), where this model's is (256, 128)"),
        (["init_from=first", "model.bias=true"], "its blocks.0.attention_norm.bias is missing"),
        (["init_from=empty"], "init_from=empty holds no checkpoint"),
        (["init_from=opt"], "it is a OPTForCausalLM, and only GPT2LMHeadModel, "),
    ],
)  # fmt: skip
def test_what_is_refused(here, first, changes, sentence):
    (here / "empty").mkdir()
    (here / "empty" / "config.yaml").write_text("steps: 3\n")
    (here / "opt").mkdir()
    (here / "opt" / "config.json").write_text(json.dumps({"model_type": "opt", "architectures": ["OPTForCausalLM"]}))
    assert sentence in complaint(in_process(*RUN, "steps=6", "run_dir=run", *changes))
