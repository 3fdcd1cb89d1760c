"""Every optimizer with its step changed: bits, state, FLOPs, other packages, anybody's loop, runs, and refusals."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import optimizers
from harness.recorder import tensor_bytes
from harness.rehearsal import rehearse
from optimizers import Wrapped, build_optimizer
from optimizers.param_groups import check_cover, hidden_matrices
from optimizers.plan import check_optimizer
from scripts.export import load_run
from tests.cases import quick_cases
from tests.command import complaint, in_process, interrupted, rows, trained
from tests.test_loop import loop
from tests.test_optimizers import NAMES, keywords
from tests.test_resume import assert_same_run
from tests.tiny import Unused, goes_on_to_the_same_bits, tiny_model, tiny_objective, train, weights

ALL = {"hyperball": 0.03, "cautious_decay": True, "average": 0.8}
# One of each way to step: elementwise, matrices, curvature, hooks, a norm; the others are slow.
KINDS = quick_cases(NAMES, {"adamw", "muon", "soap", "sophia_g", "kfac", "lamb"})


@pytest.mark.parametrize("name", KINDS)
def test_any_optimizer_with_all_changes_goes_on_to_the_same_bits(name):
    goes_on_to_the_same_bits(
        lambda model: build_optimizer(name, model, **{**keywords(name), "weight_decay": 0.1}, **ALL)
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_announced_is_what_is_kept_and_charged(name):
    info, inputs, model = optimizers.find(name), {**keywords(name), "weight_decay": 0.1, **ALL}, tiny_model()
    optimizer = info.build(model, **inputs)
    announced = info.treatments(optimizer, model, tokens=1)
    check_cover(model, optimizer.param_groups)
    train(model, optimizer, tiny_objective(model), steps=12 if "every" in inputs else 3)
    for label, p in model.named_parameters():
        assert tensor_bytes(optimizer.state.get(p, {})) == announced[label].state_bytes, label
        assert ("hyperball" in announced[label].rule) == any(p is q for q in hidden_matrices(model))


@pytest.mark.parametrize(
    "name", ["muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("soap", "kfac", "mkor"))]
)
def test_the_flops_are_those_without_the_changes(name):
    counts = [
        rehearse(lambda twin, more=more: build_optimizer(name, twin, **{**keywords(name), **more}), tiny_model(), 3)
        for more in ({}, {"weight_decay": 0.1, **ALL})
    ]
    assert counts[0] == counts[1]


def test_a_mean_of_the_moved_bytes():
    model = tiny_model()
    infos = [{}, {"average": 0.9}]
    info, p = optimizers.find("adamw"), model.blocks[0].mlp.up.weight
    plain, averaged = (
        info.treatments(info.build(model, **more), model, 1)["blocks.0.mlp.up.weight"].moved_bytes for more in infos
    )
    assert averaged - plain == 2 * 4 * p.numel()  # the average, read and written


@pytest.mark.parametrize("name", ["muon", "sophia_g"])
def test_micro_batches_give_the_same_curve(name):
    inputs = {**keywords(name), "weight_decay": 0.1, **ALL}
    whole, cut = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64)
    a = train(whole, build_optimizer(name, whole, **inputs), tiny_objective(whole), 12)
    b = train(cut, build_optimizer(name, cut, **inputs), tiny_objective(cut, micro=2), 12)
    assert a == pytest.approx(b, rel=1e-6)


def test_frozen_and_unused_parameters_stay_as_they_are():
    model = Unused()
    model.positions.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer = build_optimizer("adamw", model, **ALL, weight_decay=0.5)
    train(model, optimizer, tiny_objective(model), steps=4)
    for name in ("positions.weight", "spare.weight", "idle"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))
    copy.deepcopy(optimizer)
    fresh = build_optimizer("adamw", before, **ALL)
    fresh.load_state_dict(optimizer.state_dict())


def test_a_rate_of_zero_moves_nothing():
    model = tiny_model()
    optimizer = build_optimizer("adamw", model, **ALL, weight_decay=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(model)
    train(model, optimizer, tiny_objective(model), steps=3)
    assert all(map(torch.equal, before, weights(model)))


EXTERNAL = [
    {"_target_": "pytorch_optimizer.Lion", "lr": 1e-3, "weight_decay": 0.1},
    {"_target_": "pytorch_optimizer.Lookahead", "base": {"_target_": "torch.optim.AdamW", "lr": 1e-3}},
]
MORE = [
    {"_target_": "pytorch_optimizer.AdEMAMix", "lr": 1e-3, "weight_decay": 0.1},
    {"_target_": "torch.optim.Muon", "lr": 2e-2, "rest": {"_target_": "torch.optim.AdamW", "lr": 1e-3}},
    {"_target_": "pytorch_optimizer.SAM", "base": {"_target_": "torch.optim.AdamW", "lr": 1e-3}},
]
SECTIONS = [*EXTERNAL, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["_target_"])
def test_a_class_of_another_package_is_changed_too(section):
    plan = check_optimizer({"name": "external", **section, **ALL}, ["torch.optim", "pytorch_optimizer"])
    model = tiny_model()
    norms = {p: p.norm().item() for p in hidden_matrices(model)}
    optimizer, objective = plan.build(model), tiny_objective(model)
    assert all(group["initial_lr"] == group["lr"] for group in optimizer.param_groups)
    losses = train(model, optimizer, objective, 25)
    assert losses[-1] < losses[0] - 0.1
    assert [p.norm().item() for p in norms] == pytest.approx([*norms.values()], rel=1e-4)
    trained = weights(model)
    with optimizers.eval_weights(optimizer):
        assert not any(map(torch.equal, trained, weights(model)))
    assert all(map(torch.equal, trained, weights(model)))
    goes_on_to_the_same_bits(plan.build)


@pytest.mark.parametrize(
    ("name", "inputs", "sentence"),
    [
        ("adamw", {"hyperball": 0.0}, "hyperball must be above 0, not 0; null turns it off"),
        ("adamw", {"average": 1.0}, "average must be above 0 and below 1, not 1; null keeps none"),
        ("adamw", {"cautious_decay": True, "weight_decay": 0.0}, "and weight_decay is 0: give one, or leave it out"),
        ("external", {"_target_": "torch.optim.Rprop", "cautious_decay": True}, "which Rprop has not: leave it out"),
        *(
            ("external", {"_target_": "pytorch_optimizer.ScheduleFreeAdamW", key: value},
             f"{key} is not for ScheduleFreeAdamW, which keeps an average of its weights by itself")
            for key, value in ALL.items()
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_sentence(name, inputs, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        check_optimizer({"name": name, **inputs}, ["torch.optim", "pytorch_optimizer"])
    assert sentence in str(refused.value)


def test_a_model_without_matrices_to_keep_on_a_sphere_is_refused():
    with pytest.raises(ValueError, match="hyperball is for hidden matrices, and Embedding has none: leave it out"):
        build_optimizer("adamw", nn.Embedding(4, 3), hyperball=0.1)
    model = tiny_model()
    nn.init.zeros_(model.blocks[1].mlp.down.weight)
    with pytest.raises(ValueError, match=r"and blocks\.1\.mlp\.down\.weight is 0: begin with another weight"):
        build_optimizer("adamw", model, hyperball=0.1)
    with pytest.raises(ValueError, match=r"needs .* in float32: torch\.bfloat16 would round"):
        build_optimizer("adamw", tiny_model(dtype=torch.bfloat16), hyperball=0.1)
    with pytest.raises(ValueError, match="hyperball needs the model"):
        Wrapped(torch.optim.AdamW(model.parameters()), hyperball=0.1)


def test_a_class_that_decays_by_itself_is_refused():
    plan = {"name": "external", "_target_": "tests.strange_optimizers.OwnDecay", "weight_decay": 0.1}
    with pytest.raises(
        ValueError, match=r"hyperball switches the weight decay of groups off, and .*OwnDecay decays what"
    ):
        check_optimizer({**plan, "hyperball": 0.1}, ["tests"])
    check_optimizer({**plan, "average": 0.9}, ["tests"])


def test_it_works_in_anybodys_loop():
    """A wrapped optimizer of torch steps as the benchmark's does, is copied, pickled, scheduled and loaded."""
    model, theirs = tiny_model(), tiny_model()
    inputs = {**keywords("adamw"), **ALL}
    losses = train(theirs, build_optimizer("adamw", theirs, **inputs), tiny_objective(theirs), 12)
    plain = optimizers.find("adamw").plain(model, **keywords("adamw"))
    optimizer = Wrapped(plain, model, **ALL)
    assert loop(model, optimizer, 6) == losses[:6]
    twin, again = copy.deepcopy((model, optimizer))
    other, pickled = pickle.loads(pickle.dumps((model, optimizer)))
    fresh_model = tiny_model()
    fresh = Wrapped(optimizers.find("adamw").plain(fresh_model, **keywords("adamw")), fresh_model, **ALL)
    fresh_model.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, step in ((model, optimizer), (twin, again), (other, pickled), (fresh_model, fresh)):
        assert loop(each, step, 6, start=6) == losses[6:]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.015, keywords("adamw")["lr"] / 2}


def test_the_average_of_bfloat16_weights_is_in_float32_and_loads_so():
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = Wrapped(torch.optim.AdamW(model.parameters(), lr=1e-3), average=0.9)
    loop(model, optimizer, 3)
    fresh = Wrapped(torch.optim.AdamW(model.parameters(), lr=1e-3), average=0.9)
    fresh.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        assert fresh.state[p]["average"].dtype == torch.float32
        assert torch.equal(fresh.state[p]["average"], optimizer.state[p]["average"])


KEYS = ("optimizer.hyperball=0.02", "optimizer.cautious_decay=true", "optimizer.average=0.5")
RUN = ("model=gpt2_pico", "context=64", "batch.tokens=512", "eval.every=4", "eval.tokens=1024", "log.every=2",
       "checkpoint.every=4", "device=cpu")  # fmt: skip


def test_a_run_saves_and_is_evaluated_at_its_average(here):
    assert trained(*RUN, *KEYS, "steps=2", run_dir="whole") == "finished"
    model, step = load_run(here / "whole")
    (last,) = (here / "whole" / "checkpoints").iterdir()
    last_weights, evaluated = (load_file(last / f"{name}.safetensors") for name in ("model", "evaluated"))
    assert step == 2
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, evaluated[name])
        assert not torch.equal(weight, last_weights[name])


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits_and_others_begin_at_its_average(here):
    assert trained(*RUN, *KEYS, "steps=8", run_dir="whole") == "finished"
    interrupted(*RUN, *KEYS, "steps=8", at=6, run_dir="cut")
    assert trained(*RUN, *KEYS, "steps=8", run_dir="cut", resume=True) == "finished"
    assert_same_run(here / "cut", here / "whole")
    assert trained(*RUN, "steps=2", "init_from=whole", run_dir="next") == "finished"
    assert rows(here / "next")[0]["val/loss"] == pytest.approx(rows(here / "whole")[-1]["val/loss"], rel=1e-12)


def test_a_wrong_key_is_named(here):
    assert "optimizer.hyperball" in complaint(in_process("optimizer.hyperball=true"))
    assert "optimizer.average must be above 0 and below 1" in complaint(in_process("optimizer.average=2"))
