"""To and from transformers' GPT2LMHeadModel: the same logits, both ways, and a run's weights as a folder it loads."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from data import load
from data.loader import evaluation_batches
from harness import checkpoint
from harness.distributed import Ranks
from harness.evaluate import evaluate
from tests.command import rows, trained

transformers = pytest.importorskip("transformers")

from models.hf import from_transformers, to_transformers  # noqa: E402
from scripts.export import load_run, main  # noqa: E402
from tests.perturbed import perturbed_model  # noqa: E402
from tests.refusal import refusal  # noqa: E402

SHAPE = {"layers": 3, "heads": 2, "width": 32, "context": 16, "vocabulary": 128}


def perturbed(**keywords) -> nn.Module:
    """Weights far enough from their start that every one of them shows in the logits."""
    return perturbed_model("gpt2", 0.1, **SHAPE, **keywords)


def tokens() -> torch.Tensor:
    return torch.randint(128, (2, 16), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_there_and_back_with_equal_logits(tmp_path, bias, scaled):
    ours = perturbed(bias=bias, scale_attention_by_layer=scaled)
    to_transformers(ours).save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    back = from_transformers(theirs)
    with torch.no_grad():
        expected = ours(tokens())
        assert torch.allclose(theirs(tokens()).logits, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(back(tokens()), expected)
    assert back.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(p, q) for p, q in zip(back.parameters(), ours.parameters(), strict=True))


def test_a_model_that_transformers_made_comes_over():
    config = transformers.GPT2Config(
        vocab_size=128, n_positions=16, n_embd=32, n_layer=2, n_head=4, activation_function="gelu",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p)
        expected = theirs(tokens()).logits
        assert torch.allclose(from_transformers(theirs)(tokens()), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(perturbed()(tokens()), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "gelu_new"), ("n_inner", 48), ("layer_norm_epsilon", 1e-6), ("scale_attn_weights", False)],
)
def test_what_has_no_counterpart_is_refused(key, value):
    keywords = {"activation_function": "gelu", "bos_token_id": None, "eos_token_id": None, key: value}
    config = transformers.GPT2Config(vocab_size=128, n_positions=16, n_embd=32, n_layer=1, n_head=2, **keywords)
    with pytest.raises(ValueError, match=f"^{key}={value} of the transformers model has no counterpart here"):
        from_transformers(transformers.GPT2LMHeadModel(config))


def a_run(folder: Path) -> nn.Module:
    """A run's folder as the harness leaves it, with two checkpoints; the model of the newer one."""
    folder.mkdir()
    section = {"name": "tiny", "family": "gpt2", **SHAPE, "vocabulary": "auto", "bias": True}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    for step, model in [(10, perturbed()), (20, perturbed(bias=True))]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        checkpoint.save(folder / "checkpoints", step, model, optimizer, {})
    return model


def test_export_writes_the_newest_checkpoint_and_never_over_anything(tmp_path, capsys):
    model = a_run(tmp_path / "run")
    main([str(tmp_path / "run"), str(tmp_path / "model")])
    assert "after 20 updates" in capsys.readouterr().out
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.allclose(theirs(tokens()).logits, model(tokens()), rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] == 128

    sentence = refusal(capsys, main, str(tmp_path / "run"), str(tmp_path / "model"))
    assert sentence == f"{tmp_path / 'model'} is there already: give the name of a new folder"


def test_the_exported_weights_are_the_evaluated_ones(here):
    """A schedule-free run said 2.96684 for weights whose export had 2.94375."""
    averaging = ("optimizer=schedule_free_adamw", "schedule=constant", "optimizer.lr=0.1")
    trained(*averaging, "steps=4", "checkpoint.every=null", run_dir="run")
    expected = rows(here / "run")[-1]["val/loss"]
    model, step = load_run(here / "run")
    assert step == 4
    batches = evaluation_batches(load("stdlib", quiet=True).val, model.context, 512, 8)
    assert evaluate(model, batches, Ranks()).loss == pytest.approx(expected, abs=1e-6)
    (evaluated,) = (here / "run").glob("checkpoints/*/evaluated.safetensors")
    evaluated.unlink()  # as older checkpoints are
    state = json.loads((evaluated.parent / "state.json").read_text())
    del state["sha256"][evaluated.name]
    (evaluated.parent / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="lacks the averaged weights that this optimizer is evaluated at"):
        load_run(here / "run")


def test_export_says_in_one_sentence_what_is_missing(tmp_path, capsys):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text(yaml.safe_dump({"model": {}}))
    for run in ("nowhere", "young"):
        assert str(tmp_path / run) in refusal(capsys, main, str(tmp_path / run), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
