"""model.init_scale: the first size of hidden matrices, what is as without it, and what a hyperball keeps of it."""

import math

import pytest
import torch

from conventions.keywords import bind
from harness.command_line import composed
from models import MODELS, build_model
from optimizers import build_optimizer
from tests.command import complaint, in_process, interrupted
from tests.study import compared, write_run, write_study
from tests.test_resume import assert_same_run
from tests.tiny import tiny_objective, train

SMALL = {"layers": 2, "heads": 2, "width": 32, "context": 16, "vocabulary": 64}
PLACES = {"qkv": 0, "projection": 1, "up": 2, "gate": 2, "down": 3}
# Of the weights that seed 3 drew before the key was there: their sum, and the sum of the norms of all parameters.
DRAWN = [
    ("gpt2", {}, 162.82366913273626, 36.37891739924812),
    ("llama", {}, 167.2439644681977, 42.89967921080332),
    ("llama", {"tied": True, "scale_residual": True, "qk_norm": "l2"}, 179.75865719684344, 55.90375679771966),
    ("llama", {"fused_qkv": True, "kv_heads": 1, "init_std": 0.05}, 175.7564003705187, 59.69588659585717),
    ("bert", {"next_sentence": True}, 196.4453424026538, 47.13856849287637),
]  # fmt: skip
RECIPES = ["adamh", "muonh", "normuonh", "soaph", "klsoaph", "psgdh"]


def model_of(family, seed=3, **changes):
    return build_model(family, seed, **{**SMALL, **changes})


@pytest.mark.parametrize(("family", "changes", "total", "norms"), DRAWN)
def test_without_the_key_the_seeded_weights_are_those_of_before(family, changes, total, norms):
    weights = [p.detach().double() for p in model_of(family, **changes).parameters()]
    assert sum(w.sum().item() for w in weights) == pytest.approx(total, rel=1e-6)
    assert sum(w.norm().item() for w in weights) == pytest.approx(norms, rel=1e-6)
    again = model_of(family, **changes, init_scale=None).parameters()
    assert all(torch.equal(w, p.double()) for w, p in zip(weights, again, strict=True))


@pytest.mark.parametrize(
    ("family", "changes"),
    [("gpt2", {"bias": True}), ("llama", {}), ("llama", {"fused_qkv": True, "mlp": "gelu"}), ("bert", {"hidden": 96})],
)
def test_each_hidden_matrix_has_its_size_and_all_else_what_it_had(family, changes):
    scale = (0.5, 1.25, 1.5, 3.0)
    plain = model_of(family, **changes, width=64)
    model = model_of(family, **changes, width=64, init_scale=scale)
    roles, seen = model.roles(), set()
    for (name, p), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if roles[p].kind != "hidden":
            assert torch.equal(p, other), name
            continue
        seen.add(roles[p].what)
        deviation = scale[PLACES[roles[p].what]] / math.sqrt(3 * p.size(1))
        error = 5 * deviation / math.sqrt(p.numel())  # of the mean; that of the deviation is smaller by sqrt(2)
        assert abs(p.mean()) < error, name
        assert abs(p.std() - deviation) < error, name
    assert {"qkv", "projection", "up", "down"} <= seen


def test_the_seed_alone_decides_the_scaled_weights():
    a, b, c = (model_of("llama", seed, init_scale=(1, 1, 1, 1)) for seed in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.blocks[0].mlp.up.weight, c.blocks[0].mlp.up.weight)


@pytest.mark.parametrize(
    ("model", "value", "sentence"),
    [
        (
            "gpt2_pico",
            "[1,0,1,1]",
            "must be four numbers above 0, not [1.0, 0.0, 1.0, 1.0]; null: the model's own sizes",
        ),
        ("llama_pico", "[1,-2,1,1]", "must be four numbers above 0, not [1.0, -2.0, 1.0, 1.0]"),
        ("bert_pico", "[1,1,1,0.0]", "must be four numbers above 0, not [1.0, 1.0, 1.0, 0.0]"),
        ("gpt2_pico", "[1,1,nan,1]", "[2] must be a number, not nan"),
        ("gpt2_pico", "[1,1,1,inf]", "[3] must be a number, not inf"),
        ("gpt2_pico", "[1,1,1,large]", "[3] must be a number, not 'large'"),
        ("gpt2_pico", "[1,2,3]", "must be a list of 4 values or null, not [1, 2, 3]"),
        ("gpt2_pico", "0.02", "must be a list of 4 values or null, not 0.02"),
        ("gpt2_pico", "torch", "must be a list of 4 values or null, not 'torch'"),
    ],
)
def test_what_is_no_size_is_refused_in_one_sentence(here, model, value, sentence):
    ended = in_process(f"model={model}", f"model.init_scale={value}", "run_dir=run")
    assert complaint(ended).startswith(f"model.init_scale{' ' * (sentence[0] != '[')}{sentence}")


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_so_it_is_where_a_model_is_built_without_a_config(factor):
    with pytest.raises(ValueError, match="init_scale must be four numbers above 0"):
        model_of("gpt2", init_scale=(1.0, 1.0, 1.0, factor))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_recipe_on_a_hyperball_keeps_the_authors_size_at_any_width(family, name):
    values = composed([f"experiment=track3/{name}", f"model={family}_pico"])
    keywords = bind(MODELS[family], {**values["model"], **SMALL}, "model")
    model = build_model(family, 0, **keywords)
    hidden = {p: role.what for p, role in model.roles().items() if role.kind == "hidden"}
    before = {p: p.detach().clone() for p in hidden}
    for p, what in hidden.items():
        expected = {"qkv": 1, "projection": 1.25, "up": 1.5, "gate": 1.5, "down": 3}[what] / math.sqrt(3 * p.size(1))
        assert p.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * p.numel()))
    section = {key: value for key, value in values["optimizer"].items() if key != "name"}
    train(model, build_optimizer(values["optimizer"]["name"], model, **section), tiny_objective(model), steps=3)
    for p, start in before.items():
        assert p.norm().item() == pytest.approx(start.norm().item(), rel=1e-5)
        assert (p - start).norm() > 0.01 * start.norm()


def test_another_first_size_is_compared_and_shown(tmp_path):
    write_study(tmp_path, {}, seeds=1)
    for steps in (1000, 2000):
        write_run(tmp_path, "muon", steps, 0, 1.3, config={"model.init_scale": [1, 1.25, 1.5, 3]})
    comparison = compared(tmp_path)
    assert [standing.optimizer for standing in comparison.standings] == ["adamw", "muon"]
    assert "model.init_scale differs: null for adamw, [1, 1.25, 1.5, 3] for muon" in comparison.warnings


def test_runs_of_before_and_after_the_key_are_one_arm(tmp_path):
    write_run(tmp_path, "adamw", 1000, 0)
    write_run(tmp_path, "adamw", 1000, 1, config={"model.init_scale": None})
    (standing,) = compared(tmp_path).standings
    assert len(standing.arm.runs) == 2


def test_a_run_with_the_key_goes_on_to_the_same_bits(here):
    words = ["model.init_scale=[1,1.25,1.5,3]", "checkpoint.every=4", "optimizer.hyperball=0.02"]
    assert in_process(*words, "run_dir=whole").code == 0
    interrupted(*words, at=5, run_dir="cut")
    assert in_process(*words, "run_dir=cut", "resume=true").code == 0
    assert_same_run(here / "cut", here / "whole")
