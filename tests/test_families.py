"""The next family touches models/ and one YAML only: a bag of words, trained by train.py under any optimizer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from conventions.targets import UNCOUNTED
from data import loader
from harness.flops import count
from models.base import LanguageModel, Losses, Role
from scripts import export
from tests.cases import quick_cases
from tests.command import complaint, in_process, interrupted, manifest, rows, trained
from tests.refusal import refusal
from tests.test_resume import assert_same_run

OPTIMIZERS = ("adamw", "muon", "soap", "sophia_g", "adahessian", "kfac")
YAML = "name: bag\nfamily: bag\nwidth: 32\ncontext: 64\nvocabulary: auto\n"


class Bag(LanguageModel):
    """Each place predicts the next token from the mean of those so far, by an MLP; with a head of its own and a z-loss.

    width: of the embedding. context: longest sequence, in tokens.
    """

    causal = True

    def __init__(self, width: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.context = context
        self.words = nn.Embedding(vocabulary, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.predict = nn.Linear(width, vocabulary, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self, generator=None):
        for p in self.parameters():
            p.normal_(0, 0.02, generator=generator)

    def forward(self, inputs, targets=None):
        x = self.words(inputs).cumsum(1) / torch.arange(1, inputs.shape[1] + 1, device=inputs.device)[:, None]
        x = x + self.narrow(self.wide(x).relu())
        logits = self.predict(x)
        if targets is None:
            return logits
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="sum")
        counted = targets != UNCOUNTED
        return Losses(total, counted.sum(), 1e-4 * (logits.logsumexp(-1)[counted] ** 2).sum())

    def roles(self):
        kinds = {"words": Role("embedding"), "wide": Role("hidden", "up"), "narrow": Role("hidden", "down")}
        kinds["predict"] = Role("head")
        named = {p: kinds[name.partition(".")[0]] for name, p in self.named_parameters()}
        return {p: Role("vector") if p.ndim < 2 else role for p, role in named.items()}

    def flops_per_token(self, context):
        return 6 * self.matrix_parameters()


class Peeking(Bag):
    causal = False


@pytest.fixture
def family(here, monkeypatch):
    """What chooses the family on the command line; its targets are masked, unevenly over the sequences."""
    monkeypatch.setitem(models.MODELS, "bag", Bag)
    (here / "added" / "model").mkdir(parents=True)
    (here / "added" / "model" / "bag.yaml").write_text(YAML)
    cut = loader.cut

    def masked(stream, windows, keys, context):
        inputs, targets = cut(stream, windows, keys, context)
        targets = targets.clone()  # of one window the two lie in one memory
        for row, window in zip(targets, windows, strict=True):
            row[: window * 7 % (context - 1)] = UNCOUNTED
        return inputs, targets

    monkeypatch.setattr(loader, "cut", masked)
    return (f"hydra.searchpath=[file://{here}/added]", "model=bag", "context=64", "steps=12", "eval.every=6")


@pytest.mark.parametrize("optimizer", quick_cases(OPTIMIZERS, {"muon", "sophia_g", "kfac"}))
def test_it_trains_and_micro_batches_change_nothing(optimizer, family, here):
    for micro in (1, 4):
        arguments = (f"optimizer={optimizer}", f"batch.micro={micro}", f"run_dir=run{micro}")
        ended = in_process(*family, *arguments)
        assert (ended.code, ended.err) == (0, "")
    one, four = (rows(here / f"run{micro}") for micro in (1, 4))
    assert len(one) == 13
    assert one[-1]["val/loss"] < one[0]["val/loss"]
    for a, b in zip(one[:6], four, strict=False):  # later, fp32's rounding has grown
        for key in {"train/loss", "val/loss", "train/auxiliary"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=2e-3 if key == "train/auxiliary" else 1e-4), (a["step"], key)
    assert one[0]["train/loss"] == pytest.approx(5.545, abs=0.02)  # ln 256: a masked target is not counted as 0
    assert one[0]["train/auxiliary"] == pytest.approx(1e-4 * 5.545**2, rel=0.02)


def test_its_flops_are_its_own_and_are_counted(family, here):
    assert trained(*family, run_dir="run") == "finished"
    result, model = manifest(here / "run"), Bag(32, 64, 256)
    matrices = 32 * 64 * 2 + 32 * 256
    assert result["parameters"]["matrix"] == model.matrix_parameters() == matrices  # the embedding is only looked up
    assert result["flops_per_token"] == 6 * matrices
    assert rows(here / "run")[-1]["flops/model"] == 12 * 6 * matrices * 512
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    counted = count(lambda: model(tokens, tokens).sum.backward())
    assert model.flops_per_token(64) * 64 == pytest.approx(counted, rel=0.01)


def test_it_goes_on_to_the_same_bits(family, here):
    assert trained(*family, "optimizer=muon", run_dir="whole") == "finished"
    interrupted(*family, "optimizer=muon", at=7, run_dir="cut")
    assert trained(*family, "optimizer=muon", run_dir="cut", resume=True) == "finished"
    assert_same_run(here / "cut", here / "whole")


def test_a_family_that_sees_later_tokens_is_refused(family, monkeypatch):
    monkeypatch.setitem(models.MODELS, "bag", Peeking)
    output = complaint(in_process(*family, "run_dir=run"))
    assert "model.family=bag sees the tokens that it is to predict" in output


def test_a_family_without_a_conversion_says_so(family, here, capsys):
    assert trained(*family, "checkpoint.every=6", run_dir="run") == "finished"
    sentence = refusal(capsys, export.main, "run", "out")
    assert "does not convert to transformers: only GPT, Llama, BERT do" in sentence
