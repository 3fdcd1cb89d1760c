"""What a parameter is: by the model's word, by its module, and refused in a sentence where neither tells."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from models.base import Role
from models.gpt import GPT
from optimizers import build_optimizer
from optimizers.param_groups import by_decay, by_kind, by_table
from optimizers.roles import fused_outputs, kinds
from tests.tiny import goes_on_to_the_same_bits, tiny_batch, tiny_model, weights

MATRIX_METHODS = ["muon", "scion", "soap", "shampoo", "kfac", "mkor", "mkor_h"]
HOOKED = ["kfac", "mkor", "mkor_h"]


def named_kinds(model: nn.Module) -> dict[str, str]:
    result = kinds(model)
    return {name: result[p] for name, p in model.named_parameters() if p in result}


def gpt2(**changes) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, **changes))


def test_a_family_gives_every_parameter_a_role_and_a_fused_qkv_says_that_it_is_three():
    model = tiny_model(bias=True)
    roles = {name: model.roles()[p] for name, p in model.named_parameters()}
    assert roles["embedding.weight"] == Role("embedding")
    assert roles["positions.weight"] == Role("positions")
    assert roles["blocks.1.attention.qkv.weight"] == Role("hidden", "qkv", (32, 32, 32))
    assert {name.split(".")[-2]: role.what for name, role in roles.items() if role.kind == "hidden"} == {
        "qkv": "qkv", "projection": "projection", "up": "up", "down": "down",
    }  # fmt: skip
    assert all(role.kind == "vector" for name, role in roles.items() if name.endswith("bias") or "norm" in name)


def test_without_its_word_the_same_kinds_are_worked_out():
    class Mute(GPT):
        roles = None

    shape = {"layers": 2, "heads": 2, "width": 32, "context": 16, "vocabulary": 64, "bias": True}
    assert named_kinds(Mute(**shape)) == named_kinds(tiny_model(bias=True))


def test_transformers_gpt2_has_hidden_matrices_positions_and_a_tied_head():
    result = named_kinds(gpt2())
    assert result["transformer.wte.weight"] == "embedding"
    assert "lm_head.weight" not in result  # the same tensor
    assert result["transformer.wpe.weight"] == "positions"
    hidden = {name.split(".", 3)[-1] for name, kind in result.items() if kind == "hidden"}
    assert hidden == {f"{layer}.weight" for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert {kind for name, kind in result.items() if name.endswith("bias") or ".ln_" in name} == {"vector"}


def test_muon_orthogonalises_the_hidden_matrices_of_transformers_gpt2():
    """It used to find none in a Conv1D, and was AdamW without a word."""
    model = gpt2()
    optimizer = build_optimizer("muon", model, weight_decay=0.0, momentum=0.0, nesterov=False)
    before = weights(model)
    tokens, targets = tiny_batch()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), targets.flatten()).backward()
    optimizer.step(lambda: torch.zeros(()))
    for (name, p), was in zip(model.named_parameters(), before, strict=True):
        if kinds(model)[p] != "hidden":
            assert "v" in optimizer.state[p], name
            continue
        for update in (p.detach() - was).chunk(3 if "c_attn" in name else 1, dim=1):  # a Conv1D has outputs as columns
            inputs, outputs = update.shape
            values = torch.linalg.svdvals(update / (0.02 * max(1.0, outputs / inputs) ** 0.5))
            assert values[-2] > 0.2, name  # one is 0 where a LayerNorm has taken the mean out of the inputs
            assert values.max() < 1.3, name


def test_a_fused_qkv_of_external_models_is_known_as_three():
    model = gpt2()
    width = model.config.n_embd
    names = {name for name, p in model.named_parameters() if p in fused_outputs(model)}
    assert names == {f"transformer.h.{i}.attn.c_attn.weight" for i in range(len(model.transformer.h))}
    assert set(fused_outputs(model).values()) == {(width, width, width)}
    attention = nn.MultiheadAttention(8, 2)
    assert fused_outputs(attention) == {attention.in_proj_weight: (8, 8, 8)}
    assert fused_outputs(nn.MultiheadAttention(8, 2, kdim=4)) == {}


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_an_untied_head_is_no_hidden_matrix(name):
    model = gpt2(tie_word_embeddings=False)
    assert named_kinds(model)["lm_head.weight"] == "head"
    optimizer = build_optimizer(name, model)
    treated = {id(p) for group in optimizer.param_groups if group.get("hidden") for p in group["params"]}
    treated |= {id(layer.weight) for layer in optimizer.activations.layers} if name in HOOKED else set()
    assert id(model.lm_head.weight) not in treated
    if name in ("soap", "shampoo"):
        tables = [p for group in optimizer.param_groups if group["table"] for p in group["params"]]
        assert any(p is model.lm_head.weight for p in tables)


class Net(nn.Module):
    """An embedding, a hidden layer and an output layer of any name."""

    def __init__(self, name: str, outputs: int = 50) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.add_module(name, nn.Linear(8, outputs))


def test_a_head_is_known_by_its_name_or_by_its_model():
    assert named_kinds(Net("lm_head"))["lm_head.weight"] == "head"
    assert named_kinds(Net("output"))["output.weight"] == "head"
    asked = Net("last")
    asked.get_output_embeddings = lambda: asked.last
    assert named_kinds(asked)["last.weight"] == "head"
    assert named_kinds(Net("last", outputs=8))["last.weight"] == "hidden"


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_what_may_be_a_head_is_refused_by_those_who_must_know(name):
    with pytest.raises(ValueError, match=r"cannot tell whether parameter last\.weight \(50, 8\) is a hidden matrix"):
        build_optimizer(name, Net("last"))
    build_optimizer("adamw", Net("last"))


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_a_matrix_of_no_known_module_is_refused_by_those_who_must_know(name):
    model = nn.Sequential(nn.Linear(4, 4))
    model.free = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"cannot tell whether parameter free \(4, 4\)"):
        build_optimizer(name, model)
    groups = build_optimizer("adamw", model, weight_decay=0.1).param_groups
    assert [group["weight_decay"] for group in groups if any(p is model.free for p in group["params"])] == [0.1]


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_a_model_that_gives_a_matrix_method_nothing_to_do_is_refused(name):
    with pytest.raises(ValueError, match="there is nothing"):
        build_optimizer(name, nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4)))
    frozen = tiny_model()
    for p, role in frozen.roles().items():
        p.requires_grad_(role.kind != "hidden")
    with pytest.raises(ValueError, match="there is nothing"):
        build_optimizer(name, frozen)


@pytest.mark.parametrize("name", ["adamw", "lion", *MATRIX_METHODS])
def test_a_parameter_without_a_role_is_refused(name):
    model = tiny_model()
    model.spare = nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match=r"parameter spare\.weight has role none; GPT\.roles\(\) must give it one of"):
        build_optimizer(name, model)


@pytest.mark.parametrize("groups", [by_decay, by_kind, by_table])
def test_the_role_decides_what_is_decayed_and_not_the_shape(groups):
    class Gains(GPT):
        """A gain for each head and channel is no matrix, though it has two dimensions."""

        def __init__(self) -> None:
            super().__init__(layers=1, heads=2, width=8, context=4, vocabulary=8)
            self.gains = nn.Parameter(torch.ones(2, 4))

        def roles(self):
            return {**super().roles(), self.gains: Role("vector")}

    model = Gains()
    [group] = [group for group in groups(model) if any(p is model.gains for p in group["params"])]
    assert group["weight_decay"] == 0
    assert not group.get("hidden")
    assert not group.get("table")


class Upright(nn.Module):
    """A hidden layer between an embedding and a tied head, of nn.Linear."""

    def __init__(self, layer=nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(64, 8)
        shapes = [(8, 24), (24, 8)] if layer is nn.Linear else [(24, 8), (8, 24)]  # a Conv1D takes its outputs first
        self.one, self.two = (layer(*shape) for shape in shapes)
        self.lm_head = nn.Linear(8, 64, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.lm_head(self.two(self.one(self.embedding(tokens)).tanh()))


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_a_conv1d_is_trained_as_the_linear_layer_that_it_is(name):
    """transformers' Conv1D keeps its weight transposed; every matrix method makes the same of it."""
    ours, theirs = Upright(), Upright(Conv1D)
    with torch.no_grad():
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            q.copy_(p.T if key in ("one.weight", "two.weight") else p)
    models = [model.double() for model in (ours, theirs)]
    optimizers = [build_optimizer(name, model, lr=1e-2, **CLOSE.get(name, {})) for model in models]
    for step in range(12):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.step(Plain(model, step))
    for (key, p), q in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        transposed = q[1].T if key in ("one.weight", "two.weight") else q[1]
        assert torch.allclose(p, transposed, rtol=1e-6, atol=1e-8), key


CLOSE = {"kfac": {"every_factor": 2, "every_inverse": 2}, "mkor": {"every": 2}, "mkor_h": {"every": 2}}


class Plain:
    """The least of an Objective: a gradient of one batch."""

    def __init__(self, model: nn.Module, step: int) -> None:
        self.model, self.step, self.num_tokens = model, step, tiny_batch()[0].numel()

    @torch.enable_grad()
    def __call__(self) -> torch.Tensor:
        tokens, targets = tiny_batch(self.step)
        self.model.zero_grad()
        loss = nn.functional.cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.detach()

    def mean_(self, tensors) -> None:
        """Leave the tensors as they are: there is one rank."""

    def join_(self, tensor) -> None:
        """Leave the tensor as it is: there is one rank."""

    def charge(self, flops: int) -> None:
        """Count nothing."""


@pytest.mark.parametrize("name", ["adamw", "muon", "soap", "kfac", "sophia_g", "adafactor"])
def test_embeddings_are_spared_from_weight_decay_where_that_is_asked_for(name):
    """Sophia's code decays neither the embedding nor the positions; all other marks of a group stay with them."""
    model = tiny_model()
    spared = {model.embedding.weight, model.positions.weight}
    for wanted, undecayed in ((True, set()), (False, spared)):
        optimizer = build_optimizer(name, model, weight_decay=0.1, decay_embeddings=wanted)
        decayed = {p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
        assert {p for p in model.parameters() if p.ndim > 1} - decayed == undecayed
    tables = [group.get("table") for group in optimizer.param_groups if spared & set(group["params"])]
    assert tables == [True if name == "soap" else None]


def test_an_optimizer_without_weight_decay_has_none_to_spare_embeddings_from():
    with pytest.raises(ValueError, match="decay_embeddings is for optimizers with a weight_decay, which Rprop has not"):
        build_optimizer("external", tiny_model(), _target_="torch.optim.Rprop", decay_embeddings=False)


@pytest.mark.parametrize("name", ["adamw", "soap"])
def test_with_embeddings_spared_it_goes_on_to_the_same_bits(name):
    goes_on_to_the_same_bits(lambda model: build_optimizer(name, model, decay_embeddings=False))
