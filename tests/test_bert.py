"""BERT: against transformers, the loss at predicted positions alone, what it counts, and every optimizer on it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import optimizers
from conventions.masking import NEXT, RANDOM, Masking
from conventions.targets import UNCOUNTED
from data.masking import MaskedWindows
from harness.command_line import composed
from harness.flops import count
from harness.objective import TimedObjective
from models import MODELS, build_model
from models.hf import from_transformers, to_transformers
from optimizers.activations import Activations
from scripts import export
from tests.command import complaint, in_process, interrupted, manifest, rows, trained
from tests.meta_model import on_meta
from tests.oracle import layer_rows
from tests.perturbed import perturbed_model
from tests.test_optimizers import build
from tests.test_resume import assert_same_run
from tests.tiny import tiny_objective

CONTEXT, TOKENS, VOCABULARY = 16, 61, 64
SMALL = {"layers": 2, "heads": 4, "width": 32, "context": CONTEXT, "vocabulary": VOCABULARY}
TINY = ("model=bert_pico", "data=stdlib", "context=64", "batch.tokens=512", "steps=12", "eval.every=6",
        "eval.tokens=4096", "log.every=3", "device=cpu")  # fmt: skip


class Row:
    """A stream of patterned tokens: every one follows from the one before it."""

    def __len__(self) -> int:
        return 5000

    def read(self, start: int, number: int) -> np.ndarray:
        return (7 * np.arange(start, start + number) ** 2 + 3) % TOKENS


def model_of(**changes):
    """The small model with weights large enough that every part of it shows in the logits."""
    return perturbed_model("bert", 0.15, **{**SMALL, **changes})


def batch(masking: Masking, step: int = 0, sequences: int = 8):
    windows = range(sequences * step, sequences * (step + 1))
    return MaskedWindows(masking, TOKENS, (61, 62, 63))(Row(), windows, [(0, 0)] * sequences, CONTEXT)


def segments(model, inputs):
    second = Masking.halves(CONTEXT)[0] + 2 if model.masking.next_sentence else CONTEXT
    return (torch.arange(CONTEXT) >= second).long().expand_as(inputs)


@pytest.mark.parametrize("pairs", [False, True])
def test_there_and_back_with_equal_logits(tmp_path, pairs):
    transformers = pytest.importorskip("transformers")
    ours = model_of(next_sentence=pairs, hidden=48)
    to_transformers(ours).save_pretrained(tmp_path)
    kind = transformers.BertForPreTraining if pairs else transformers.BertForMaskedLM
    theirs = kind.from_pretrained(tmp_path)
    inputs, targets = batch(ours.masking)
    with torch.no_grad():
        expected = theirs(inputs, token_type_ids=segments(ours, inputs))
        logits = expected.prediction_logits if pairs else expected.logits
        assert torch.allclose(ours(inputs), logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(from_transformers(theirs)(inputs), ours(inputs))
        losses = ours(inputs, targets)
        labels = targets.masked_fill(targets < 0, UNCOUNTED)
        mean = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert losses.mean.item() == pytest.approx(mean.item(), rel=1e-5)
        assert losses.count.item() == 8 * ours.masking.predictions(CONTEXT)
        if pairs:  # the authors add the two means
            label = (targets[:, 0] == RANDOM).long()
            expected_pair = F.cross_entropy(expected.seq_relationship_logits, label)
            assert (losses.auxiliary / losses.count).item() == pytest.approx(expected_pair.item(), rel=1e-5)
        else:
            assert losses.auxiliary is None
    names = {name for name, _ in from_transformers(theirs).named_parameters()}
    assert names == {name for name, _ in ours.named_parameters()}


def test_what_has_no_counterpart_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        hidden_act="relu",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^hidden_act=relu of the transformers model has no counterpart here"):
        from_transformers(transformers.BertForMaskedLM(config))


def test_fixed_shapes_give_the_same_loss(monkeypatch):
    """A compiled graph gathers as many rows of each sequence as the batches have targets."""
    model = model_of(next_sentence=True).double()
    rows = batch(model.masking)
    plain = model(*rows)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    fixed = model(*rows)
    assert fixed.count == plain.count
    for a, b in [(fixed.sum, plain.sum), (fixed.auxiliary, plain.auxiliary)]:
        assert a.item() == pytest.approx(b.item(), rel=1e-12)


def test_it_is_one_graph():
    model = model_of(next_sentence=True)
    rows = batch(model.masking)
    explained = torch._dynamo.explain(model)(*rows)
    assert explained.graph_break_count == 0


def test_every_position_sees_every_other():
    model = model_of()
    inputs, _ = batch(model.masking, sequences=1)
    changed = inputs.clone()
    changed[0, 9] = (changed[0, 9] + 1) % TOKENS
    with torch.no_grad():
        assert ((model(inputs) - model(changed)).abs().amax(2) > 1e-6).all()


# transformers' BertForPreTraining of the same shape, whose decoder's bias is one with the head's.
@pytest.mark.parametrize(("config", "vocabulary", "parameters"), [
    ("bert_base", 30522, 110_106_428), ("bert_large", 30522, 336_226_108), ("bert_pico", 320, 133_632 + 256 + 320),
])  # fmt: skip
def test_parameters_of_every_size(config, vocabulary, parameters):
    model = on_meta(config, vocabulary)
    held = sum(p.numel() for p in model.parameters())
    assert held == pytest.approx(parameters, rel=1e-2)
    if config == "bert_large":
        assert held == parameters


@pytest.mark.parametrize(
    ("config", "context"),
    [("bert_nano", 256), ("bert_base", 128), pytest.param("bert_large", 512, marks=pytest.mark.slow)],
)
def test_flops_are_torchs_own_count(config, context):
    model = on_meta(config, 30528)
    masking = model.masking
    inputs = torch.zeros(2, context, dtype=torch.int64, device="meta")
    number = masking.predictions(context)
    # Rows of a mask cannot be picked where there are no values: the predicted ones are the first of each sequence.
    model._predicted = lambda x, targets: (x[:, :number].flatten(0, 1), targets[:, :number].flatten())

    def whole():
        losses = model(inputs, inputs)
        return losses.sum if losses.auxiliary is None else losses.sum + losses.auxiliary

    with sdpa_kernel(SDPBackend.MATH):
        counted = count(lambda: whole().backward())
        logits = count(lambda: model(inputs).sum().backward())
    assert model.flops_per_token(context) * inputs.numel() == pytest.approx(counted, rel=0.01)
    assert model.sampled_flops_per_token(context) * inputs.numel() == pytest.approx(logits, rel=0.01)


def test_the_papers_flops_of_both_phases():
    """BERT-Large on WordPiece, padded: 1.880 GF per token in sequences of 128 with 20 predictions, 1.993 of 512."""
    for context, most, giga in [(128, 20, 1.880), (512, 80, 1.993)]:
        section = composed(["model=bert_large", f"model.max_predictions={most}", "model.mask_share=0.2"])["model"]
        keywords = {key: value for key, value in section.items() if key not in ("name", "family", "vocabulary")}
        with torch.device("meta"):
            model = MODELS["bert"](**keywords, vocabulary=30528)
        assert model.flops_per_token(context) / 1e9 == pytest.approx(giga, rel=5e-3)


def test_an_objective_gives_the_gradient_of_both_means_however_it_is_cut():
    model = model_of(next_sentence=True).double()
    inputs, targets = batch(model.masking)
    losses = model(inputs, targets)
    expected = torch.autograd.grad((losses.sum + losses.auxiliary) / losses.count, list(model.parameters()))
    for micro in (8, 4, 1):
        objective = tiny_objective(model)
        objective.micro, objective.grad_clip = micro, None
        objective.bind(0, (inputs, targets))()
        assert objective.record.loss.item() == pytest.approx(losses.mean.item(), rel=1e-12)
        for p, gradient in zip(model.parameters(), expected, strict=True):
            assert torch.allclose(p.grad, gradient, rtol=1e-9, atol=1e-12)


def test_the_means_of_a_layer_that_few_tokens_pass_are_over_all_tokens():
    """MKOR takes them times the batch's tokens for the sum over rows, at the predicted tokens and at [CLS] too."""
    model, twin = (model_of(next_sentence=True).double() for _ in range(2))
    inputs, targets = batch(model.masking)
    activations, objective = Activations(model, 1), tiny_objective(model, micro=2, grad_clip=None)
    activations.record(objective.bind(0, (inputs, targets)), True)
    expected = layer_rows(twin, lambda: sum_of(twin(inputs, targets)) / (targets >= 0).sum())
    used = {layer.name: g for layer, _, (g,) in activations.means(objective)}
    assert {"transform", "pooler", "blocks.0.up"} <= used.keys()
    for name, mean in used.items():
        total = expected[f"{name}.weight"][1].sum(0)
        assert torch.allclose(mean * objective.num_tokens, total, rtol=1e-9, atol=1e-12), name


def sum_of(losses):
    return losses.sum + losses.auxiliary


def test_a_pass_for_drawn_labels_is_charged_for_logits_everywhere():
    model = model_of()
    objective: TimedObjective = tiny_objective(model)
    objective.sampled_flops_per_token = model.sampled_flops_per_token(CONTEXT)
    objective.bind(0, batch(model.masking)).sampled_grads()
    assert objective.ledger.curvature == model.sampled_flops_per_token(CONTEXT) * 8 * CONTEXT
    assert model.sampled_flops_per_token(CONTEXT) > 1.05 * model.flops_per_token(CONTEXT)


@pytest.mark.slow
@pytest.mark.parametrize("name", [info.name for info in optimizers.list_optimizers()])
def test_every_optimizer_trains_it(name):
    model = build_model("bert", 0, **SMALL, next_sentence=True)
    optimizer, objective = build(name, model), tiny_objective(model)
    losses = []
    for step in range(60):
        optimizer.step(objective.bind(step, batch(model.masking, step)))
        losses.append(objective.record.loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] - 0.02


def test_a_run_is_trained_exported_and_resumed_to_the_same_bits(here):
    assert trained(*TINY, "checkpoint.every=6", "model.next_sentence=true", run_dir="whole") == "finished"
    facts = manifest(here / "whole")
    model = on_meta("bert_pico", 320)
    assert facts["flops_per_token"] == pytest.approx(model.flops_per_token(64), rel=0.1)
    last = rows(here / "whole")[-1]
    assert last["val/loss"] < math.log(256)
    interrupted(*TINY, "checkpoint.every=6", "model.next_sentence=true", at=7, run_dir="cut")
    assert trained(*TINY, "checkpoint.every=6", "model.next_sentence=true", run_dir="cut", resume=True) == "finished"
    assert_same_run(here / "cut", here / "whole")
    export.main(["whole", "out"])
    transformers = pytest.importorskip("transformers")
    assert type(transformers.AutoModelForPreTraining.from_pretrained("out")).__name__ == "BertForPreTraining"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.mask_share=0"], "model.mask_share must be above 0 and at most 1, not 0"),
        (["model.max_predictions=0"], "model.max_predictions must be at least 1, not 0"),
        (["model.heads=3"], "width must be a multiple of heads"),
        (["model.context=4", "context=4", "model.next_sentence=true"], "model.context must be at least 5"),
        (["context=4", "batch.tokens=16", "eval.tokens=16", "model.next_sentence=true"], "context must be at least 5"),
    ],
)
def test_impossible_shapes_are_refused(here, changes, sentence):
    assert sentence in complaint(in_process(*TINY, *changes, "run_dir=run"))


def test_labels_of_pairs_are_no_targets():
    assert NEXT < 0
    assert RANDOM < 0
    assert len({NEXT, RANDOM, UNCOUNTED}) == 3
