"""A fused qkv that is taken apart trains as three linear layers do, under every matrix method, to the last digits."""

import pytest
import torch
from torch import Tensor, nn

import optimizers
from harness.rehearsal import rehearse
from models.base import Losses, Role
from optimizers.pieces import PieceState, cut, pieces
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective

WIDTH, HEADS, TOKENS = 12, 2, 64
OUTPUTS = (12, 6, 6)  # queries, and fewer keys and values
METHODS = [
    ("muon", {"split_qkv": True, "ns_dtype": "float64"}),
    ("scion", {"split_qkv": True, "ns_dtype": "float64", "vector_radius": 0.0}),
    ("soap", {"split_qkv": True, "every": 40}),
    ("soap", {"split_qkv": True, "every": 40, "factorized": True}),
    ("soap", {"split_qkv": True, "every": 40, "normalize_grads": True, "one_sided": True}),
    ("kl_soap", {"split_qkv": True, "every": 40}),
    ("soap_muon", {"split_qkv": True, "every": 40, "ns_dtype": "float64", "eps": 1e-4}),
    ("shampoo", {"split_qkv": True, "every": 4, "eps": 1e-6}),
    ("shampoo", {"split_qkv": True, "every": 4, "eps": 1e-6, "graft": False, "power": 0.5}),
    (
        "kfac",
        {"every_factor": 2, "every_inverse": 4, "lr": 0.05, "kl_clip": 1e-5, "damping": 1e-6, "factor_decay": 0.1},
    ),
    (
        "kfac",
        {
            "every_factor": 1,
            "every_inverse": 4,
            "lr": 0.01,
            "method": "inverse",
            "backend": "adamw",
            "damping": 1e-3,
            "factor_decay": 0.1,
        },
    ),
    ("mkor", {"every": 2, "lr": 3e-3}),
    ("mkor", {"every": 2, "lr": 3e-3, "formula": "repo", "backend": "sgd"}),
    ("mkor_h", {"every": 2, "lr": 3e-3, "window": 4}),
]


class Net(nn.Module):
    """One layer of attention, whose queries, keys and values come from one linear layer or from three."""

    def __init__(self, fused: bool, bias: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        if fused:
            self.qkv = nn.Linear(WIDTH, sum(OUTPUTS), bias=bias)
        else:
            self.three = nn.ModuleList(nn.Linear(WIDTH, n, bias=bias) for n in OUTPUTS)
        self.fused, self.out = fused, nn.Linear(WIDTH, WIDTH, bias=bias)
        for i, p in enumerate(self.parameters()):
            p.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(i))

    def forward(self, tokens: Tensor, targets: Tensor) -> Losses:
        x = self.embedding(tokens)
        q, k, v = self.qkv(x).split(OUTPUTS, -1) if self.fused else (layer(x) for layer in self.three)
        weight = (q[..., : OUTPUTS[1]] @ k.mT + q[..., OUTPUTS[1] :] @ k.mT).softmax(-1)
        y = x + self.out(torch.cat([weight @ v, v], -1))
        logits = y @ self.embedding.weight.T
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return Losses(loss, torch.tensor(float(targets.numel())))

    def roles(self) -> dict[Tensor, Role]:
        hidden = {"qkv.weight": Role("hidden", "qkv", OUTPUTS), "embedding.weight": Role("embedding")}
        other = {p: Role("hidden" if p.ndim == 2 else "vector") for p in self.parameters()}
        return {**other, **{p: hidden[name] for name, p in self.named_parameters() if name in hidden}}

    def flops_per_token(self, context: int) -> int:
        return 1


def twins(bias: bool) -> tuple[Net, Net]:
    """The same weights, once in one layer and once in three."""
    fused, apart = Net(True, bias).double(), Net(False, bias).double()
    apart.load_state_dict(_apart(fused.state_dict()))
    return fused, apart


def _apart(values: dict[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for name, value in values.items():
        parts = value.split(OUTPUTS) if name.startswith("qkv.") else []
        split |= {name.replace("qkv", f"three.{i}"): part for i, part in enumerate(parts)} or {name: value}
    return split


@pytest.mark.parametrize("bias", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(("name", "keywords"), METHODS, ids=str)
def test_a_fused_qkv_trains_as_three_layers(name, keywords, bias):
    """SOAP's first bases are handed over: rounding alone would choose them in a null space. A bias is no matrix, and
    stays whole where its own size matters."""
    if bias and "normalize_grads" in keywords:
        pytest.skip("one bias of three layers is normalized as one")
    models = twins(bias)
    ours, theirs = (optimizers.build_optimizer(name, model, **keywords) for model in models)
    objectives = [tiny_objective(model, grad_clip=None) for model in models]
    start = _apart({key: p.detach().clone() for key, p in models[0].named_parameters()})
    for step in range(24):
        for optimizer, objective in zip((ours, theirs), objectives, strict=True):
            optimizer.step(objective.bind(step, tiny_batch(step)))
        if "soap" in name and step == 0:
            for i, layer in enumerate(models[1].three):
                share = PieceState(ours.state[models[0].qkv.weight], f".{i}")
                theirs.state[layer.weight].update({k: v.clone() for k, v in share.items() if "basis" in k})
    end = _apart({key: p.detach() for key, p in models[0].named_parameters()})
    other = dict(models[1].named_parameters())
    assert distance([end[key] for key in start], [other[key].detach() for key in start], list(start.values())) < 1e-9


@pytest.mark.parametrize(("name", "keywords"), [each for each in METHODS if each[0] != "mkor_h"], ids=str)
def test_the_other_way_is_another_optimizer(name, keywords):
    def end(split: bool) -> Tensor:
        model = twins(False)[0]
        optimizer = optimizers.build_optimizer(name, model, **{**keywords, "split_qkv": split})
        for step in range(12):
            optimizer.step(tiny_objective(model, grad_clip=None).bind(step, tiny_batch(step)))
        return model.qkv.weight.detach()

    assert not torch.allclose(end(True), end(False), rtol=1e-4)


def test_a_matrix_kept_as_inputs_by_outputs_is_cut_along_its_columns():
    whole, apart = slice(0, 4), [slice(0, 6), slice(6, 8)]
    assert [piece.at for piece in cut((8, 4), (6, 2))] == [(at, whole) for at in apart]
    assert [piece.at for piece in cut((4, 8), (6, 2), transposed=True)] == [(whole, at) for at in apart]
    p, group = torch.zeros(4, 8), {"outputs": (6, 2), "transposed": True}
    assert [piece.shape for piece in pieces(p, group, split=True)] == [(4, 6), (4, 2)]
    assert [piece.suffix for piece in pieces(p, group, split=False)] == [""]


def test_blocks_stay_within_their_matrix():
    shapes = [piece.shape for piece in cut((10, 4), (6, 4), block=4)]
    assert shapes == [(4, 4), (2, 4), (4, 4)]
    assert [piece.shape for piece in cut((7,), block=4)] == [(7,)]


def test_a_share_sees_its_own_names_alone():
    whole = {"left.1": 1, "left.11": 2, "m": 3}
    share = PieceState(whole, ".1")
    assert dict(share) == {"left": 1}
    share["v"] = 4
    del share["left"]
    assert whole == {"left.11": 2, "m": 3, "v.1": 4}
    assert "m" not in share


@pytest.mark.parametrize(
    "keywords", [{"split_qkv": True}, pytest.param({"block": 20}, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_pieces_are_charged_as_they_are_computed(name, keywords):
    counted, charged = rehearse(
        lambda model: optimizers.build_optimizer(name, model, every=4, **keywords), tiny_model(width=64), steps=12
    )
    assert charged == pytest.approx(counted, rel=0.02)
