"""Llama: its sizes, each variant against a reference that shares no code with it, and every optimizer on it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import optimizers
from harness.flops import count
from models import build_model
from models.hf import from_transformers, to_transformers
from tests.cases import slow_cases
from tests.meta_model import on_meta
from tests.perturbed import perturbed_model
from tests.test_optimizers import build
from tests.tiny import CONTEXT, VOCABULARY, tiny_batch, tiny_objective, train

SMALL = {"layers": 2, "heads": 4, "width": 32, "hidden": 48, "context": CONTEXT, "vocabulary": VOCABULARY}
OLMO = {"norm": "layer", "norm_gain": False}
VARIANTS = [
    {}, {"tied": True}, {"kv_heads": 2}, {"qk_norm": "head"}, {"qk_norm": "width", "kv_heads": 2},
    {"qk_norm": "l2"}, {"mlp": "gelu"}, {"norm": "layer"}, OLMO, {"rope_theta": 500.0, "norm_eps": 1e-2},
    {"fused_qkv": True, "kv_heads": 2, "qk_norm": "width"},
]  # fmt: skip
# All parameters with the vocabulary that each paper trained with; Wen et al.: 266M, 499M, 800M and 1.60B.
PARAMETERS = {
    ("llama_pico", 256): 133_440,
    ("llama_nano", 256): 869_504,
    ("llama_30m", 50304): 80_879_104,
    ("olmo_30m", 50304): 10 * (12 * 512**2 + 4 * 512) + 2 * 50304 * 512 + 512,  # gains of four norms a block
    ("llama_130m", 128256): 265_585_152,
    ("llama_300m", 128256): 499_041_024,
    ("llama_520m", 128256): 799_605_760,
    ("llama_1200m", 128256): 1_602_061_824,
    ("olmo_360m", 32128): 367_884_288 + 24 * 2 * 1024,  # 24 x 12 x 1024^2 + 2 x 32,128 x 1024, and gains of norms
    ("olmo_660m", 32128): 661_600_000,
    ("algoperf_lm", 50257): 177_320_000,
}


def model_of(**changes):
    """The small model with weights large enough that every part of it shows in the logits."""
    return perturbed_model("llama", 0.15, **{**SMALL, **changes})


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(2))


def normed(x, kind, gain, eps):
    x = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (1 if gain is None else gain)


def turned(x, theta):
    """Rotary positions in complex numbers, as Su et al. write them; x is (T, Q)."""
    half = x.shape[1] // 2
    rates = torch.tensor([theta ** (-2 * i / x.shape[1]) for i in range(half)], dtype=torch.float64)
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones(len(x), half).double(), torch.outer(
        torch.arange(len(x)).double(), rates))  # fmt: skip
    return torch.cat([z.real, z.imag], dim=1)


def reference(w, row, *, heads, kv_heads=None, mlp="swiglu", norm="rms", qk_norm="none", rope_theta=1e4, norm_eps=1e-5):
    """Logits of one sequence, token by token and head by head, in float64, from a state dict."""
    kv_heads = kv_heads or heads
    x = w["embedding.weight"][row]
    for i in range(SMALL["layers"]):
        b = {key.removeprefix(f"blocks.{i}."): value for key, value in w.items() if key.startswith(f"blocks.{i}.")}
        h = normed(x, norm, b.get("attention_norm.weight"), norm_eps)
        if "attention.qkv.weight" in b:
            size = x.shape[1] // heads * kv_heads
            q, k, v = (h @ part.T for part in b["attention.qkv.weight"].split([x.shape[1], size, size]))
        else:
            q, k, v = (h @ b[f"attention.{name}.weight"].T for name in ("query", "key", "value"))
        if qk_norm == "width":
            q = normed(q, norm, b["attention.query_norm.weight"], norm_eps)
            k = normed(k, norm, b["attention.key_norm.weight"], norm_eps)
        size = x.shape[1] // heads
        heads_out = []
        for j in range(heads):
            g = j * kv_heads // heads
            one, key, value = q[:, j * size : (j + 1) * size], *(y[:, g * size : (g + 1) * size] for y in (k, v))
            if qk_norm == "head":
                one = normed(one, norm, b["attention.query_norm.weight"], norm_eps)
                key = normed(key, norm, b["attention.key_norm.weight"], norm_eps)
            one, key, scale = turned(one, rope_theta), turned(key, rope_theta), 1 / math.sqrt(size)
            if qk_norm == "l2":
                one, key = (y / y.norm(dim=1, keepdim=True) for y in (one, key))
                scale = b["attention.temperature"]
            scores = scale * one @ key.T + torch.full((len(x), len(x)), -math.inf).triu(1)
            heads_out.append(scores.softmax(1) @ value)
        x = x + torch.cat(heads_out, 1) @ b["attention.projection.weight"].T
        h = normed(x, norm, b.get("mlp_norm.weight"), norm_eps)
        up = h @ b["mlp.up.weight"].T
        if mlp == "gelu":
            up = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        else:
            gate = h @ b["mlp.gate.weight"].T
            up = up * gate / (1 + (-gate).exp())
        x = x + up @ b["mlp.down.weight"].T
    return normed(x, norm, w.get("norm.weight"), norm_eps) @ w.get("head.weight", w["embedding.weight"]).T


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_logits_are_the_papers(variant):
    model = model_of(**variant).double()
    options = {key: value for key, value in variant.items() if key not in ("tied", "norm_gain", "fused_qkv")}
    with torch.no_grad():
        ours = model(tokens())
        for row, logits in zip(tokens(), ours, strict=True):
            expected = reference(model.state_dict(), row, heads=SMALL["heads"], **options)
            assert (logits - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.parametrize(("config", "vocabulary"), PARAMETERS)
def test_parameters_of_every_size(config, vocabulary):
    expected = PARAMETERS[config, vocabulary]
    assert sum(p.numel() for p in on_meta(config, vocabulary).parameters()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "config", slow_cases(["llama_nano", "llama_130m", "olmo_360m", "algoperf_lm"], {"llama_130m", "olmo_360m"})
)
def test_flops_are_torchs_own_count(config):
    model = on_meta(config, 256 if config == "llama_nano" else 50304)
    row = torch.zeros(1, model.context, dtype=torch.int64, device="meta")
    with sdpa_kernel(SDPBackend.MATH):
        counted = count(lambda: model(row, row).sum.backward())
    assert model.flops_per_token(model.context) * model.context == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("variant", [{"kv_heads": 2, "qk_norm": "head", "z_loss": 1e-4}, {"fused_qkv": True}], ids=str)
def test_it_is_one_graph(variant):
    explained = torch._dynamo.explain(model_of(**variant))(tokens(), tokens().roll(-1, 1))
    assert explained.graph_break_count == 0
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", [{}, {"kv_heads": 2, "qk_norm": "head"}, {"qk_norm": "l2", "z_loss": 0.1}], ids=str)
def test_it_can_be_differentiated_twice(variant):
    model = model_of(**variant).double()
    params, rows = list(model.parameters()), (tokens(), tokens().roll(-1, 1))
    v = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).double() for p in params]

    def gradient(create_graph=False):
        with sdpa_kernel(SDPBackend.MATH):
            losses = model(*rows)
            whole = losses.sum if losses.auxiliary is None else losses.sum + losses.auxiliary
            return torch.autograd.grad(whole, params, create_graph=create_graph)

    products = torch.autograd.grad(gradient(create_graph=True), params, v)
    with torch.no_grad():
        torch._foreach_add_(params, v, alpha=1e-6)
    above = gradient()
    with torch.no_grad():
        torch._foreach_add_(params, v, alpha=-2e-6)
    below = gradient()
    for product, up, down in zip(products, above, below, strict=True):
        difference = (up - down) / 2e-6
        assert (product - difference).norm() <= 1e-4 * difference.norm() + 1e-6


def test_z_loss_is_its_formula_and_no_part_of_the_loss():
    model, plain = model_of(z_loss=0.01).double(), model_of().double()
    targets = tokens().roll(-1, 1)
    targets[0, 3:7] = -100
    losses = model(tokens(), targets)
    logits = plain(tokens())
    z = logits.exp().sum(-1).log()
    assert losses.auxiliary.item() == pytest.approx((0.01 * z**2)[targets != -100].sum().item(), rel=1e-10)
    assert losses.sum.item() == plain(tokens(), targets).sum.item()
    assert losses.count.item() == 2 * CONTEXT - 4
    assert plain(tokens(), targets).auxiliary is None


def test_the_gradient_of_an_objective_holds_the_z_loss_and_its_loss_does_not():
    model = model_of(z_loss=0.05)
    rows = tiny_batch()
    objective = tiny_objective(model).bind(0, rows)
    whole = objective()
    logits = model(rows[0]).detach().requires_grad_()
    plain = F.cross_entropy(logits.flatten(0, 1), rows[1].flatten())
    assert objective.record.loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert whole.item() == pytest.approx(plain.item() + 0.05 * logits.logsumexp(-1).square().mean().item(), rel=1e-5)
    losses = model(*rows)
    expected = torch.autograd.grad((losses.sum + losses.auxiliary) / losses.count, list(model.parameters()))
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad * objective.record.norm, gradient, rtol=1e-3, atol=1e-5)  # clipped to norm 1


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ({}, "LlamaForCausalLM"),
        ({"tied": True, "kv_heads": 2, "rope_theta": 500.0}, "LlamaForCausalLM"),
        ({"qk_norm": "head", "kv_heads": 1, "norm_eps": 1e-6}, "Qwen3ForCausalLM"),
        (OLMO, "OlmoForCausalLM"),
        ({"fused_qkv": True, "kv_heads": 2}, "LlamaForCausalLM"),
    ],
    ids=str,
)
def test_there_and_back_with_equal_logits(tmp_path, variant, name):
    transformers = pytest.importorskip("transformers")
    ours = model_of(**variant)
    to_transformers(ours).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == name
    back = from_transformers(theirs)
    with torch.no_grad():
        expected = ours(tokens())
        assert torch.allclose(theirs(tokens()).logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(back(tokens()), expected, rtol=1e-5, atol=1e-6)
    if "fused_qkv" not in variant:
        assert back.state_dict().keys() == ours.state_dict().keys()


def test_a_fused_matrix_says_that_it_is_three():
    from optimizers.roles import fused_outputs

    model = model_of(fused_qkv=True, kv_heads=2)
    assert fused_outputs(model) == {block.attention.qkv.weight: (32, 16, 16) for block in model.blocks}
    assert not fused_outputs(model_of(kv_heads=2))


def test_what_has_no_counterpart_is_refused():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"^transformers has no class with mlp=gelu, norm=rms"):
        to_transformers(model_of(mlp="gelu"))
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        hidden_act="gelu",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^hidden_act=gelu of the transformers model has no counterpart here"):
        from_transformers(transformers.LlamaForCausalLM(config))
    with pytest.raises(ValueError, match=r"^OPTForCausalLM of transformers has no counterpart here"):
        from_transformers(transformers.OPTForCausalLM(transformers.OPTConfig(
            vocab_size=64, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=1)))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 5}, "^width must be an even multiple of heads, but 32 is not one of 5"),
        ({"heads": 32}, "^width must be an even multiple of heads"),
        ({"kv_heads": 3}, "^kv_heads must divide heads, but 3 does not divide 4"),
        ({"hidden": 0}, "^hidden must be at least 1, not 0"),
        ({"z_loss": -1.0}, "^z_loss must be at least 0, not -1"),
        ({"norm_eps": 0.0}, "^norm_eps must be above 0, not 0"),
        ({"rope_theta": math.inf}, "^rope_theta must be above 0, not inf"),
    ],
)
def test_impossible_shapes_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model("llama", 0, **{**SMALL, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("name", [info.name for info in optimizers.list_optimizers()])
def test_every_optimizer_trains_it(name):
    model = build_model("llama", 0, **SMALL, qk_norm="head")
    losses = train(model, build(name, model), tiny_objective(model), steps=60)
    assert sum(losses[-5:]) / 5 < losses[0] - 0.02
