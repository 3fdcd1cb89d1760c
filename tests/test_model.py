"""GPT-2: its sizes, its first weights, its loss and derivatives, and what it counts."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS, build_model, head, padded_vocabulary

SMALL = {"layers": 3, "heads": 2, "width": 32, "context": 16, "vocabulary": 64}
CONFIGS = Path(__file__).parent.parent / "configs" / "model"

# Parameters with a vocabulary of 50,304: nanoGPT's own count of the same shapes, positions included.
PARAMETERS = {
    "gpt2_pico": 3_326_272,
    "gpt2_nano": 7_259_264,
    "gpt2_30m": 30_331_776,
    "gpt2_51m": 51_454_464,
    "gpt2_125m": 124_373_760,
    "gpt2_355m": 354_599_936,
    "gpt2_540m": 536_957_568,
    "gpt2_770m": 773_582_080,
}


def model_of(**changes) -> nn.Module:
    return build_model("gpt2", 0, **{**SMALL, **changes})


def batch(model: nn.Module, sequences: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (2, sequences, model.context)
    return tuple(torch.randint(len(model.embedding.weight), shape, generator=generator))


def on_meta(config: str, vocabulary: int = 50304) -> nn.Module:
    """The model of a config's file, of shapes only: building 770M takes no time."""
    section = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    keywords = {key: value for key, value in section.items() if key not in ("name", "family", "vocabulary")}
    with torch.device("meta"):
        return MODELS[section["family"]](**keywords, vocabulary=vocabulary)


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("gpt2_*.yaml")))
def test_parameters_of_every_size(config):
    assert sum(p.numel() for p in on_meta(config).parameters()) == PARAMETERS[config]


def test_initialisation_is_nanogpts():
    model = model_of(layers=8, width=128, vocabulary=512, bias=True)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            into_the_residual_stream = name.endswith(("projection.weight", "down.weight"))
            std = 0.02 / math.sqrt(2 * 8) if into_the_residual_stream else 0.02
            error = 5 * std / math.sqrt(p.numel())  # of the mean; that of the deviation is smaller by sqrt(2)
            assert abs(p.mean()) < error, name
            assert abs(p.std() - std) < error, name


def test_the_seed_alone_decides_the_weights():
    before = torch.get_rng_state()
    a = model_of()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    b, c = model_of(), build_model("gpt2", 1, **SMALL)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embedding.weight, c.embedding.weight)
    assert not torch.equal(a.blocks[0].mlp.up.weight, a.blocks[1].mlp.up.weight)


def test_every_matrix_is_a_linear_layer_or_an_embedding_and_there_is_one_head():
    model = model_of()
    named = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    assert {name for name, p in model.named_parameters() if p.dim() == 2} == named
    assert len(model.state_dict()) == len(list(model.parameters())) == 2 + 3 * 6 + 1


def test_no_position_sees_a_later_token():
    model = model_of()
    tokens, _ = batch(model)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 64
    with torch.no_grad():
        difference = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    assert (difference[:9] < 1e-6).all()
    assert (difference[9:] > 1e-6).all()


def test_the_loss_is_the_mean_cross_entropy_of_the_logits():
    model = model_of()
    tokens, targets = batch(model)
    logits = model(tokens).double()
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert model(tokens, targets).mean.item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.double()(tokens, targets).sum.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.float()(tokens, targets).mean
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_block_by_block_the_loss_and_both_derivatives_stay_the_same(monkeypatch):
    model = model_of(context=32)
    tokens, targets = batch(model, sequences=9)  # 288 rows: two blocks and a part of one
    v = [torch.randn_like(p) for p in model.parameters()]

    def derivatives():
        with sdpa_kernel(SDPBackend.MATH):
            loss = model(tokens, targets).mean
            once = torch.autograd.grad(3 * loss, list(model.parameters()), retain_graph=True)
            grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return [loss, *once, *torch.autograd.grad(grads, list(model.parameters()), v)]

    stock = derivatives()
    monkeypatch.setattr(head, "LARGE", 0)
    monkeypatch.setattr(head, "BLOCK", 1)
    assert "BlockwiseLoss" in type(model(tokens, targets).sum.grad_fn).__name__
    for a, b in zip(derivatives(), stock, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    with torch.no_grad():
        assert model(tokens, targets).mean.item() == pytest.approx(stock[0].item(), rel=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_double_backward_under_math_attention(scaled):
    model = model_of(scale_attention_by_layer=scaled).double()
    tokens, targets = batch(model)
    params = list(model.parameters())
    v = [torch.randn_like(p) for p in params]

    def grads(create_graph: bool = False):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.grad(model(tokens, targets).mean, params, create_graph=create_graph)

    products = torch.autograd.grad(grads(create_graph=True), params, v)
    ends = []
    for sign in (1, -1):  # the central difference of the gradient along v
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=sign * 1e-5)
        ends.append(grads())
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=-sign * 1e-5)
    for product, above, below in zip(products, *ends, strict=True):
        difference = (above - below) / 2e-5
        assert (product - difference).norm() <= 1e-5 * difference.norm() + 1e-9


def test_scaling_by_the_layer_divides_the_attention_logits_of_block_i_by_i():
    plain, scaled = model_of(), model_of(scale_attention_by_layer=True)
    tokens, _ = batch(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p *= 20  # logits large enough to see
        scaled.load_state_dict(plain.state_dict())
        apart = (plain(tokens) - scaled(tokens)).abs().max()
        for i, block in enumerate(plain.blocks, start=1):
            block.attention.qkv.weight[: SMALL["width"]] /= i  # the queries
        together = (plain(tokens) - scaled(tokens)).abs().max()
    assert together < 1e-4 * apart


@pytest.mark.parametrize(
    ("config", "vocabulary"),
    [
        ("gpt2_pico", 256),
        ("gpt2_nano", 256),
        ("gpt2_nano", 50304),
        ("gpt2_30m", 50304),
        pytest.param("gpt2_770m", 50304, marks=pytest.mark.slow),
    ],
)
def test_flops_are_torchs_own_count(config, vocabulary):
    model = on_meta(config, vocabulary)
    tokens = torch.zeros(1, model.context, dtype=torch.int64, device="meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).sum.backward()
    assert model.flops_per_token(model.context) * model.context == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_flops_of_the_125m_model_at_its_context():
    """The 855 MFLOP per token that published MFUs are reckoned by."""
    model = on_meta("gpt2_125m")
    assert model.matrix_parameters() == 50304 * 768 + 12 * 12 * 768**2
    assert model.flops_per_token(1024) == 6 * model.matrix_parameters() + 12 * 12 * 768 * 1024 == 854_654_976


def test_padding_of_the_vocabulary():
    assert [padded_vocabulary("auto", n) for n in (1, 64, 65, 256, 50257)] == [64, 64, 128, 256, 50304]
    assert padded_vocabulary(300, 256) == 300
    with pytest.raises(ValueError, match=r"^vocabulary must be auto or at least 256, what the data has, not 255$"):
        padded_vocabulary(255, 256)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": 0}, "^layers must be at least 1, not 0"),
        ({"heads": -1}, "^heads must be at least 1, not -1"),
        ({"width": 30, "heads": 4}, "^width must be a multiple of heads, but 30 is not one of 4"),
        ({"context": 0}, "^context must be at least 1, not 0"),
        ({"vocabulary": 0}, "^vocabulary must be at least 1 or auto, not 0"),
    ],
)
def test_impossible_shapes_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        model_of(**changes)


def test_a_sequence_longer_than_the_context_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match=r"^context must be at least 17 for 17 tokens in a row, not 16$"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    assert model(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, 64)  # shorter is fine
