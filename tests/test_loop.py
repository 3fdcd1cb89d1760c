"""Our optimizers in loops that have no Objective: the losses are those of our own trainer, to the last bit."""

import copy
import io
import pickle
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import optimizers
from optimizers import AdaHessian, SophiaG
from optimizers.loop import Curvature
from tests.cases import slow_cases
from tests.test_optimizers import VARIANTS, build, keywords
from tests.tiny import tiny_batch, tiny_model, tiny_objective, train, weights

OWN = [info for info in optimizers.list_optimizers() if issubclass(info.constructor, optimizers.Optimizer)]
NAMES = [info.name for info in OWN]
EVERY = slow_cases(NAMES, VARIANTS)
PLAIN = [info.name for info in OWN if not hasattr(info.constructor, "update_curvature")]
STEPS = 24  # past two refreshes
BEFORE, AFTER = 13, 24  # a refresh lies between

pytestmark = pytest.mark.filterwarnings("ignore:MKOR-H sees no loss")


def make(name: str, params, **keys):
    return optimizers.find(name).constructor(params, **{**keywords(name), **keys})


def loss_of(model, step: int):
    losses = model(*tiny_batch(step))
    return losses.sum / losses.count


def one_pass(model, optimizer, step: int, clip: float | None = 1.0):
    """What stands in anybody's loop before `step`: twenty lines with what is round it."""
    if getattr(optimizer, "curvature_due", False):
        with sdpa_kernel(SDPBackend.MATH):
            hessian = not isinstance(optimizer, SophiaG)
            optimizer.update_curvature(loss_of(model, step) if hessian else model(tiny_batch(step)[0]))
    optimizer.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    return loss


def loop(model, optimizer, steps: int = STEPS, start: int = 0, by_closure: bool = False, clip=1.0) -> list[float]:
    losses = []
    for step in range(start, start + steps):
        if by_closure:
            loss = optimizer.step(lambda step=step: one_pass(model, optimizer, step, clip))
        else:
            loss = one_pass(model, optimizer, step, clip)
            assert optimizer.step() is None
        losses.append(loss.item())
    return losses


@cache
def trained(name: str):
    """Return the model and the losses of our own trainer."""
    model = tiny_model()
    return model, train(model, build(name, model), tiny_objective(model), STEPS)


def same(one, other) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("by_closure", [False, True], ids=["step()", "step(closure)"])
@pytest.mark.parametrize("name", slow_cases(PLAIN, VARIANTS))
def test_a_loop_makes_the_updates_of_the_trainer(name, by_closure):
    theirs, losses = trained(name)
    model = tiny_model()
    assert loop(model, make(name, model), by_closure=by_closure) == losses
    assert same(model, theirs)


@pytest.mark.parametrize("by_closure", [False, True], ids=["step()", "step(closure)"])
@pytest.mark.parametrize("name", sorted({*NAMES} - {*PLAIN}))
def test_the_loss_falls(name, by_closure):
    model = tiny_model()
    losses = loop(model, make(name, model), steps=60, by_closure=by_closure)
    assert sum(losses[-5:]) / 5 < losses[0] - 0.02


@pytest.mark.parametrize("name", sorted({*NAMES} - {*PLAIN}))
def test_curvature_by_the_loop_is_that_of_the_trainer(name, monkeypatch):
    """With the labels and the probes that the trainer draws, on the whole batch as there."""
    keys = {"share": 1.0, "weight_decay": 0.0} if "sophia" in name else {"weight_decay": 0.0}
    theirs = tiny_model(dtype=torch.float64)
    objective, drawn = tiny_objective(theirs), []
    draw = torch.searchsorted
    monkeypatch.setattr(torch, "searchsorted", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    losses = train(theirs, make(name, theirs, **keys), objective, STEPS)
    labels = iter(drawn)
    monkeypatch.setattr(torch, "multinomial", lambda p, *_, **__: torch.cat([next(labels) for _ in range(8)]))
    model = tiny_model(dtype=torch.float64)
    optimizer = make(name, model.parameters(), **keys)  # in the model's order, as the probes are

    def generator(self, key):
        objective.step = optimizer.updates
        return objective.generator(key)

    monkeypatch.setattr(Curvature, "generator", generator)
    assert loop(model, optimizer) == pytest.approx(losses, rel=1e-12)
    assert all(torch.allclose(p, q, rtol=1e-7, atol=1e-9) for p, q in zip(weights(model), weights(theirs), strict=True))


def test_curvature_of_micro_batches_is_that_of_the_batch(monkeypatch):
    monkeypatch.setattr(torch, "multinomial", lambda p, *_, **__: p.argmin(-1, keepdim=True))
    inputs, targets = tiny_batch()
    targets[:3, 5:] = -100  # they draw no label
    states = []
    for cuts in ([8], [3, 5]):
        model = tiny_model(dtype=torch.float64)
        optimizer = SophiaG(model.parameters())
        optimizer.update_curvature((model(x) for x in inputs.split(cuts)), targets.split(cuts))
        assert optimizer.param_groups[0]["num_tokens"] == inputs.numel()
        states.append([optimizer.state[p]["h"] for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(*states, strict=True))
    hessians = []
    for cuts in ([8], [3, 5]):
        torch.manual_seed(0)
        model = tiny_model(dtype=torch.float64)
        optimizer = AdaHessian(model.parameters())
        with sdpa_kernel(SDPBackend.MATH):
            pairs = zip(inputs.split(cuts), targets.split(cuts), strict=True)
            optimizer.update_curvature(model(x, y).sum / (targets != -100).sum() for x, y in pairs)
        hessians.append([optimizer.state[p]["v"] for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-8) for a, b in zip(*hessians, strict=True))


@pytest.mark.parametrize("name", sorted({*NAMES} - {*PLAIN}))
def test_what_the_loop_owes_is_said(name):
    model = tiny_model()
    optimizer = make(name, model)
    loss_of(model, 0).backward()
    with pytest.raises(ValueError, match="calls update_curvature"):
        optimizer.step()
    with torch.no_grad(), pytest.raises(ValueError, match=r"outside torch.no_grad"):
        optimizer.update_curvature(model(tiny_batch()[0]))
    if name != "sophia_g":
        with pytest.raises(ValueError, match=r"SDPBackend.MATH"):
            optimizer.update_curvature(loss_of(model, 0))


@pytest.mark.parametrize(("name", "by"), [
    ("kfac", partial(torch.optim.SGD, momentum=0.9)),
    ("mkor", partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.0)),
])  # fmt: skip
def test_preconditioned_gradients_go_into_any_optimizer(name, by):
    """K-FAC before SGD is the K-FAC of the registry, and MKOR before AdamW its MKOR."""
    theirs = tiny_model(dtype=torch.float64)
    own = make(name, theirs, weight_decay=0.0, **({"betas": (0.9, 0.95)} if name == "mkor" else {}))
    losses = train(theirs, own, tiny_objective(theirs), STEPS)
    model = tiny_model(dtype=torch.float64)
    preconditioner = make(name, model)
    optimizer = by(model.parameters(), lr=preconditioner.defaults["lr"])
    ours = []
    for step in range(STEPS):
        ours.append(one_pass(model, optimizer, step).item())
        preconditioner.precondition()
        optimizer.step()
    assert ours == pytest.approx(losses, rel=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_schedulers_set_its_rates(name):
    model = tiny_model()
    optimizer = make(name, model)
    peaks = torch.tensor([group["lr"] for group in optimizer.param_groups])
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [3])
    shares = []
    for step in range(7):
        shares.append((torch.tensor([group["lr"] for group in optimizer.param_groups]) / peaks).tolist())
        one_pass(model, optimizer, step)
        optimizer.step()
        scheduler.step()
    expected = [0.25, 0.5, 0.75, 1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    assert shares == [pytest.approx([share] * len(peaks)) for share in expected]


@pytest.mark.parametrize("how", ["deepcopy", pytest.param("pickle", marks=pytest.mark.slow), "state dict"])
@pytest.mark.parametrize("name", EVERY)
def test_copies_and_files_go_on_to_the_same_bits(name, how):
    """After a scheduler has wrapped `step`, which no copy may take along."""
    torch.manual_seed(0)
    model = tiny_model()
    optimizer = make(name, model)
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    loop(model, optimizer, BEFORE)
    if how == "deepcopy":
        again, other = copy.deepcopy((model, optimizer))
    elif how == "pickle":
        again, other = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        file = io.BytesIO()
        torch.save((model.state_dict(), optimizer.state_dict()), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again = tiny_model(seed=1)
        other = make(name, again)
        loop(again, other, 2)  # it has a state of its own, which is replaced
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
    assert {id(p) for group in other.param_groups for p in group["params"]} == {id(p) for p in again.parameters()}
    ends = []
    for one, its in ((model, optimizer), (again, other)):
        torch.manual_seed(1)
        ends.append(loop(one, its, AFTER - BEFORE, BEFORE))
    assert ends[0] == ends[1]
    assert same(model, again)


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_weights_keep_their_wide_state(name):
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = make(name, model)
    loop(model, optimizer, BEFORE)
    before = {p: dict(state) for p, state in optimizer.state.items()}
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, state in before.items():
        for key, value in state.items():
            assert type(optimizer.state[p][key]) is type(value)
            if isinstance(value, torch.Tensor):
                assert optimizer.state[p][key].dtype == value.dtype
                assert torch.equal(optimizer.state[p][key], value)
    assert all(loss == loss for loss in loop(model, optimizer, 3, BEFORE))


@pytest.mark.parametrize("name", slow_cases(sorted({*NAMES} - {"kfac", "mkor", "mkor_h"}), VARIANTS))
def test_parameters_that_come_later_train_too(name):
    """The blocks train first, then everything does, as when a model is thawed."""
    model = tiny_model()
    late = [*model.embedding.parameters(), *model.positions.parameters(), *model.norm.parameters()]
    early = [(key, p) for key, p in model.named_parameters() if all(p is not q for q in late)]
    optimizer = make(name, early)
    loop(model, optimizer, 3)
    names = {p: key for key, p in model.named_parameters()}
    optimizer.add_param_group({"params": [(names[p], p) for p in late], "weight_decay": 0.0})
    before = [p.detach().clone() for p in late]
    loop(model, optimizer, STEPS, 3)
    assert not any(torch.equal(p, q) for p, q in zip(late, before, strict=True))
    assert {p for group in optimizer.param_groups for p in group["params"]} == {*model.parameters()}


def scaled_loop(model, optimizer, scaler, steps: int, overflow: bool = False) -> list[float]:
    losses = []
    for step in range(steps):
        if getattr(optimizer, "curvature_due", False):
            with sdpa_kernel(SDPBackend.MATH):
                hessian = not isinstance(optimizer, SophiaG)
                optimizer.update_curvature(loss_of(model, step) if hessian else model(tiny_batch(step)[0]))
        optimizer.zero_grad()
        loss = loss_of(model, step)
        scaler.scale(loss * torch.inf if overflow and step == 0 else loss).backward()
        hooked = {"loss_scale": scaler.get_scale()} if hasattr(optimizer, "precondition") else {}
        scaler.step(optimizer, **hooked)
        scaler.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", EVERY)
def test_a_scaled_loss_makes_the_same_updates(name):
    """GradScaler multiplies the loss by a power of two, which changes no bit."""
    ends = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = tiny_model()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5, enabled=enabled)
        ends.append((scaled_loop(model, make(name, model), scaler, STEPS), weights(model)))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_scaled_losses_that_overflow_are_skipped(name):
    """Hooks have seen the infinite gradients too: their statistics are left out, and taken in the next update."""
    model = tiny_model()
    optimizer = make(name, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = scaled_loop(model, optimizer, scaler, STEPS, overflow=True)
    assert scaler.get_scale() == 2.0**9
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    assert all(value.isfinite().all() for value in tensors)
    assert losses[-1] < losses[0]
    if hasattr(optimizer, "precondition"):
        assert {"A", "left"} & optimizer.state[model.blocks[0].mlp.up.weight].keys()
