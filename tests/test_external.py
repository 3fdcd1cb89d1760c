"""Classes of other packages are handed what they ask for, called as they want, and charged for every pass."""

import copy
import sys

import pytest
import pytorch_optimizer
import torch

import optimizers
from optimizers.external.adapter import Adapter
from optimizers.external.target import load_class
from optimizers.plan import check_optimizer
from optimizers.roles import kinds
from tests import strange_optimizers
from tests.cases import quick_cases
from tests.command import complaint, in_process, manifest, rows
from tests.tiny import tiny_batch, tiny_model, tiny_objective, train, weights

BESIDE = """
import torch

class Plain(torch.optim.SGD):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr=lr)
"""
STRANGE = "tests.strange_optimizers"
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-3}


def plan(target, steps=40, **keywords):
    section = {"name": "external", "_target_": target, **keywords}
    return check_optimizer(section, ["torch.optim", "pytorch_optimizer", "tests"], steps=steps)


def built(target, model, **keywords):
    return plan(target, **keywords).build(model)


def after_loop(model, make, step, number=6):
    """The weights after a loop by hand: `step` gets an optimizer and a closure of the tiny objective."""
    optimizer, objective = make(model), tiny_objective(model)
    for i in range(number):
        step(optimizer, objective.bind(i, tiny_batch(i)))
    return weights(model)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_class_for_matrices_gets_the_hidden_ones_and_the_rest_goes_to_another():
    model = tiny_model()
    optimizer = built("torch.optim.Muon", model, lr=0.02, rest={**ADAMW, "weight_decay": 0.1})
    muon, adamw = optimizer.parts
    assert (type(muon), type(adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    hidden = {p for p, kind in kinds(model).items() if kind == "hidden"}
    assert {p for group in muon.param_groups for p in group["params"]} == hidden
    assert {group["weight_decay"] for group in adamw.param_groups if group["params"][0].ndim < 2} == {0.0}
    objective = tiny_objective(model)
    losses = train(model, optimizer, objective, 30)
    assert losses[-1] < losses[0] - 0.1
    assert objective.ledger.curvature == 0  # both step on one gradient


def test_without_a_class_for_the_rest_the_sentence_says_what_to_give():
    with pytest.raises(
        ValueError, match=r"takes hidden matrices alone: .* optimizer\.rest\._target_=torch\.optim\.AdamW"
    ):
        plan("torch.optim.Muon")


def test_a_class_that_tells_matrices_by_a_flag_gets_groups_with_it():
    model = tiny_model()
    optimizer = built("pytorch_optimizer.Muon", model, hidden={"lr": 0.5}, rest={"lr": 0.25}, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert {kinds(model)[p] == "hidden" for p in group["params"]} == {group["use_muon"]}
        assert group["lr"] == group["initial_lr"] == (0.5 if group["use_muon"] else 0.25)
    assert train(model, optimizer, tiny_objective(model), 4)


def test_sam_perturbs_along_the_gradient_of_the_same_step_and_pays_for_both():
    one, other = tiny_model(), tiny_model()
    optimizer = built("pytorch_optimizer.SAM", one, rho=0.1, base=ADAMW)
    objective = tiny_objective(one)
    for i in range(6):
        optimizer.step(objective.bind(i, tiny_batch(i)))

    def by_hand(sam, closure):
        closure()
        sam.step(closure)

    make = lambda model: pytorch_optimizer.SAM(  # noqa: E731
        optimizers.param_groups.by_decay(model), torch.optim.AdamW, rho=0.1, lr=1e-3
    )
    assert same(weights(one), after_loop(other, make, by_hand))
    assert objective.ledger.curvature == objective.ledger.model > 0


WRAPPERS = ("Lookahead", "OrthoGrad", "Magma", "TRAC", "ScheduleFreeWrapper", "WSAM", "LookSAM", "FriendlySAM")


@pytest.mark.parametrize("target", quick_cases(WRAPPERS, {"Lookahead", "ScheduleFreeWrapper", "WSAM"}))
def test_what_wraps_another_gets_a_class_or_an_instance_as_it_wants(target):
    with pytest.raises(ValueError, match=r"wraps another optimizer: give optimizer\.base\._target_="):
        plan(f"pytorch_optimizer.{target}")
    model = tiny_model()
    optimizer = built(f"pytorch_optimizer.{target}", model, base={**ADAMW, "lr": 1e-2})
    losses = train(model, optimizer, tiny_objective(model), 40)
    assert losses[-1] < losses[0]


def test_a_key_that_a_wrapper_would_swallow_is_sent_to_what_it_wraps():
    with pytest.raises(ValueError, match=r"give optimizer\.base\.lr"):
        plan("pytorch_optimizer.Lookahead", lr=0.1, base=ADAMW)
    with pytest.raises(ValueError, match=r"give optimizer\.base\._target_=torch\.optim\.AdamW"):
        plan("pytorch_optimizer.SAM", base_optimizer="torch.optim.AdamW")


def test_a_class_that_differentiates_the_gradient_gets_its_graph_and_pays_for_the_products():
    one, other = tiny_model(), tiny_model()
    keywords = {"lr": 1e-2, "update_period": 2, "hessian_distribution": "rademacher"}
    optimizer = built("pytorch_optimizer.AdaHessian", one, **keywords)
    objective = tiny_objective(one, micro=4, grad_clip=None)
    for i in range(4):
        optimizer.step(objective.bind(i, tiny_batch(i)))
    assert all(p.grad.grad_fn is None for p in one.parameters())

    def by_hand(adahessian, objective):
        def closure():
            loss, objective_grads = 0.0, None
            for batch in objective._passes():
                share, grads = objective.hessian.gradient(batch)
                objective_grads = (
                    grads if objective_grads is None else [a + b for a, b in zip(objective_grads, grads, strict=True)]
                )
                loss = loss + share.whole.detach()
            for p, g in zip(other.parameters(), objective_grads, strict=True):
                p.grad = g
            return loss

        adahessian.step(closure)

    hand = tiny_objective(other, micro=4, grad_clip=None)
    adahessian = pytorch_optimizer.AdaHessian(optimizers.param_groups.by_decay(other), **keywords)
    for i in range(4):
        by_hand(adahessian, hand.bind(i, tiny_batch(i)))
    assert same(weights(one), weights(other))
    product = objective._hessian_flops(objective.params)[1]
    assert objective.ledger.curvature == 2 * product  # at steps 0 and 2
    assert objective.ledger.model == 4 * objective.flops_per_token * objective.num_tokens


def test_a_step_without_a_closure_has_its_gradient():
    one, other = tiny_model(), tiny_model()
    optimizer = built(f"{STRANGE}.WithoutClosure", one, lr=0.1)
    assert isinstance(optimizer, Adapter)
    train(one, optimizer, tiny_objective(one), 5)
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), tiny_objective(other), 5)
    assert same(weights(one), weights(other))


def test_a_step_that_uses_the_gradient_before_its_closure_has_that_of_the_same_step():
    one, other = tiny_model(), tiny_model()
    optimizer = built(f"{STRANGE}.WantsThePast", one, lr=0.1)
    objective = tiny_objective(one)
    train(one, optimizer, objective, 5)
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), tiny_objective(other), 5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(one), weights(other), strict=True))
    assert objective.ledger.curvature == objective.ledger.model


def test_what_is_asked_for_by_name_is_handed_over():
    model = tiny_model()
    planned = plan(f"{STRANGE}.Counting", steps=77).knowing(targets=999)
    optimizer = planned.build(model)
    assert (optimizer.model, optimizer.num_iterations, optimizer.num_data) == (model, 77, 999)
    assert optimizer.param_groups[0]["initial_lr"] == 0.125  # its own default: no rate was given
    assert built(f"{STRANGE}.Counting", model, num_iterations=5).num_iterations == 5


def test_a_class_that_fails_is_named_with_the_reason_and_the_place():
    with pytest.raises(
        ValueError, match=r"Fails cannot run here: .* AssertionError \(strange_optimizers\.py:\d+: assert closure"
    ):
        plan(f"{STRANGE}.Fails")


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("torch.optim.SparseAdam", "take torch.optim.Adam"),
        ("pytorch_optimizer.LOMO", "take torch.optim.SGD"),
        ("pytorch_optimizer.GSAM", "take pytorch_optimizer.SAM"),
        ("pytorch_optimizer.MuonClip", "take that"),
    ],
)
def test_what_no_training_run_can_compare_is_refused_with_the_remedy(target, remedy):
    with pytest.raises(ValueError, match=rf"optimizer\._target_={target} is refused: .*{remedy}"):
        plan(target)


@pytest.mark.parametrize(
    ("target", "heeds"),
    [("torch.optim.Rprop", False), ("pytorch_optimizer.AdaFactor", False), ("pytorch_optimizer.ApolloDQN", False),
     ("pytorch_optimizer.Nero", True), ("pytorch_optimizer.SRMM", True), ("pytorch_optimizer.Gravity", True),
     ("pytorch_optimizer.AdaShift", True), ("torch.optim.ASGD", True), (f"{STRANGE}.Unmoved", False)],
)  # fmt: skip
def test_whether_a_class_heeds_the_schedule_is_seen_in_its_steps(target, heeds):
    assert plan(target).info.manner.heeds_schedule is heeds


def test_a_run_says_what_was_handed_and_logs_no_rate_that_nobody_heeds(here):
    target = f"optimizer._target_={STRANGE}.Unmoved"
    ended = in_process("optimizer=external", target, "allow_targets=[tests]", "steps=4", "run_dir=run")
    assert ended.code == 0
    assert "note: Unmoved follows no schedule" in ended.out
    assert manifest(here / "run")["external"]["heeds_schedule"] is False
    assert not any("lr" in row for row in rows(here / "run"))


def test_a_class_that_schedules_itself_is_told_of_the_other_schedule(here):
    target = "optimizer._target_=pytorch_optimizer.ScheduleFreeSGD"
    assert "schedules itself" in in_process("optimizer=external", target, "steps=3", "run_dir=run").out
    quiet = in_process("optimizer=external", target, "steps=3", "schedule=constant", "run_dir=constant")
    assert "schedules itself" not in quiet.out


def test_a_class_in_a_section_needs_trust_as_well():
    rest = {"_target_": "os.path.Join"}
    with pytest.raises(ValueError, match=r"optimizer\.rest\._target_=os\.path\.Join is not under allow_targets"):
        plan("torch.optim.Muon", rest=rest)


def test_the_first_step_is_tried_before_the_run_has_a_folder(here):
    target = f"optimizer._target_={STRANGE}.Fails"
    sentence = complaint(in_process("optimizer=external", target, "allow_targets=[tests]", "run_dir=run"))
    assert "cannot run here" in sentence
    assert not (here / "run").exists()


def test_an_adapter_can_be_copied():
    model = tiny_model()
    optimizer = built("torch.optim.Muon", model, rest=ADAMW)
    train(model, optimizer, tiny_objective(model), 2)
    twin = copy.deepcopy(optimizer)
    assert [len(group["params"]) for group in twin.param_groups] == [len(g["params"]) for g in optimizer.param_groups]
    assert twin.state_dict()["parts"][0]["state"].keys() == optimizer.state_dict()["parts"][0]["state"].keys()


def test_state_that_no_checkpoint_gives_back_safely_is_refused_before_the_first_step(here):
    target = "optimizer._target_=tests.strange_optimizers.KeepsAPath"
    sentence = complaint(in_process("optimizer=external", target, "allow_targets=[tests]", "run_dir=run"))
    assert sentence.startswith("optimizer: tests keeps pathlib.PosixPath in its state, which cannot be read back")
    assert not (here / "run").exists()


def test_a_class_that_compiles_itself_runs_uncompiled_where_the_run_does(here):
    """On a CPU such a class compiled for minutes, a kernel for each shape."""
    target = f"optimizer._target_={STRANGE}.Compiles"
    run = ("optimizer=external", target, "allow_targets=[tests]", "steps=3", "compile=false", "run_dir=run")
    assert in_process(*run).code == 0
    assert strange_optimizers.GRAPHS == []
    strange_optimizers.descend(torch.ones(2), torch.ones(2))  # and afterwards it compiles as it likes
    assert len(strange_optimizers.GRAPHS) == 1


def test_a_class_in_a_file_of_the_current_folder(tmp_path, monkeypatch):
    """Python itself looks beside train.py, and not where the command is given."""
    (tmp_path / "plain_beside.py").write_text(BESIDE)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    with pytest.raises(ValueError, match=r"no module plain_beside; install it.* PYTHONPATH"):
        load_class("plain_beside.Plain", ["plain_beside"])
    monkeypatch.chdir(tmp_path)
    assert load_class("plain_beside.Plain", ["plain_beside"]).__name__ == "Plain"
    (tmp_path / "torch.py").write_text("raise RuntimeError")  # what is installed comes first
    assert load_class("torch.optim.SGD", ["torch.optim"]) is torch.optim.SGD
