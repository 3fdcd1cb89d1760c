"""Roles that are worked out from names and shapes, where an optimizer gets parameters and no model."""

import pytest
import torch
from torch import nn

from models import build_model
from optimizers import SOAP, Muon, Shampoo
from optimizers.param_groups import by_kind
from optimizers.roles import kinds
from optimizers.shapes import Bare
from tests.tiny import tiny_model


def gpt2(**shape):
    inputs = {"layers": 3, "heads": 2, "width": 64, "context": 32, "vocabulary": 1000, **shape}
    return build_model("gpt2", 0, **inputs)


def sorts(optimizer) -> dict[str, str]:
    """Name each parameter's group: hidden, or not."""
    return {
        name: "hidden" if group["hidden"] else "rest"
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


@pytest.mark.parametrize("shape", [{}, {"vocabulary": 256, "width": 64}, {"context": 64}, {"layers": 2}])
@pytest.mark.parametrize("named", [True, False])
def test_gpt2s_roles_are_those_that_it_gives(shape, named, capsys):
    """A vocabulary of 256 has the shape of the first matrix of the MLP, and 64 positions that of a projection."""
    model = gpt2(**shape)
    inputs = kinds(model)
    muon = Muon(model.named_parameters() if named else model.parameters())
    hidden = {p for group in muon.param_groups if group["hidden"] for p in group["params"]}
    if not named and shape == {"context": 64}:
        assert hidden < {p for p, kind in inputs.items() if kind in ("hidden", "positions")}
    else:
        assert hidden == {p for p, kind in inputs.items() if kind == "hidden"}
    output = capsys.readouterr().out
    assert ("by names and shapes" in output) == named
    assert f"{len(hidden)} hidden matrices" in output


def test_groups_from_names_are_those_of_the_model_but_for_the_decay_of_vectors():
    """A fused qkv is three matrices by its name, too."""
    model = gpt2()
    muon = Muon(model.named_parameters(), weight_decay=0.3)
    theirs = {p: group for group in by_kind(model) for p in group["params"]}
    ours = {p: group for group in muon.param_groups for p in group["params"]}
    assert ours.keys() == theirs.keys()
    for p, group in theirs.items():
        assert ours[p]["hidden"] == group["hidden"]
        assert ours[p].get("outputs") == group.get("outputs")
        assert ours[p]["weight_decay"] == 0.3
        assert ours[p]["lr"] == (0.02 if group["hidden"] else 6e-4)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("transformer.wte.weight", (100, 8), "embedding"),
        ("module.transformer.wpe.weight", (8, 8), "positions"),
        ("_orig_mod.model.embed_tokens.weight", (100, 8), "embedding"),
        ("bert.embeddings.position_embeddings.weight", (9, 8), "positions"),
        ("lm_head.weight", (100, 8), "head"),
        ("output.weight", (100, 8), "head"),
        ("blocks.0.output.weight", (8, 8), "hidden"),
        ("model.layers.3.mlp.up_proj.weight", (100, 8), "hidden"),
        ("unembedding_of_mine.weight", (100, 8), "head"),  # outside the blocks, an output for each token
        ("fc.weight", (8, 8), "hidden"),
        ("model.norm.weight", (8,), "vector"),
        ("conv.weight", (8, 8, 3), "vector"),  # no matrix: it goes with the rest
    ],
)
def test_names_tell(name, shape, kind):
    embedding = ("wte.weight", nn.Parameter(torch.zeros(100, 8)))
    p = nn.Parameter(torch.zeros(shape))
    assert Bare([embedding, (name, p)]).kinds[p] == kind


def test_an_untied_head_is_left_over_with_the_embedding():
    shapes = [(50, 8), *[(8, 8)] * 16, *[(24, 8)] * 8, *[(8, 24)] * 4, (50, 8)]
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    result = Bare((str(i), p) for i, p in enumerate(params)).kinds
    assert [result[p] for p in params] == ["embedding", *["hidden"] * 28, "embedding"]


def test_where_nothing_repeats_all_matrices_are_hidden():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    muon = Muon(model.named_parameters())
    assert sorts(muon) == {"0.weight": "hidden", "0.bias": "rest", "2.weight": "hidden", "2.bias": "rest"}


def test_groups_keep_their_own_keys():
    model = tiny_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1, "note": 1}, {"params": vectors, "weight_decay": 0.0}]
    for optimizer in (SOAP(groups), Shampoo(groups), Muon(groups)):
        for group in optimizer.param_groups:
            vector = group["params"][0].ndim < 2
            assert group["weight_decay"] == (0.0 if vector else 0.1)
            assert ("note" in group) != vector
    marked = Muon([{"params": matrices, "hidden": True}, {"params": vectors, "hidden": False, "lr": 7.0}])
    assert [group["lr"] for group in marked.param_groups] == [0.02, 7.0]


def test_frozen_parameters_stay_in_a_group():
    model = tiny_model()
    model.positions.weight.requires_grad_(False)
    muon = Muon(model.named_parameters())
    assert {p for group in muon.param_groups for p in group["params"]} == {*model.parameters()}
    assert sorts(muon)["positions.weight"] == "rest"


def test_matrices_kept_the_other_way_round_are_refused():
    params = [("transformer.h.0.attn.c_attn.weight", nn.Parameter(torch.zeros(8, 24)))]
    with pytest.raises(ValueError, match=r"kept as \(inputs, outputs\).*give the model itself"):
        Muon(params)


def test_hooks_want_the_model():
    from optimizers import KFAC, Mkor

    for hooked in (KFAC, Mkor):
        with pytest.raises(ValueError, match="give the model itself"):
            hooked(tiny_model().parameters())
