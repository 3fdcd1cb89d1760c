"""Tries on a class what every optimizer must do, in seconds: each check passes or says what is wrong.

    for row in conformance(build, charges=True):
        print("pass" if row.passed else "FAIL", row.name, row.detail)

A short, real subset of tests/test_optimizers.py, on a GPT of two layers and patterned tokens.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import nn

from harness.rehearsal import rehearse, uncharged_per_step
from harness.schedule import set_lr
from optimizers.param_groups import check_cover
from scripts.study.toy import AFTER, BEFORE, SEQUENCES, Build, Unused, resumed, tiny_model, tiny_objective, train


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str  # what the check came to, in a sentence


def conformance(build: Build, charges: bool) -> list[Check]:
    """Run every check. Whatever the optimizer raises becomes the row's sentence.

    build: the optimizer over a model, at the settings that are to be tuned round. charges: whether it charges its own
    FLOPs.
    """
    checks: dict[str, Callable[[], str]] = {
        "the loss falls": lambda: _falls(build),
        "two runs agree to the last bit": lambda: _deterministic(build),
        "its state survives a file": lambda: _saved(build),
        "micro-batches give the same curve": lambda: _micro_batches(build),
        "each parameter is in one group": lambda: _covered(build),
        "its updates follow the rate": lambda: _follows(build),
        "bfloat16 parameters train": lambda: _bfloat16(build),
        "frozen and unused parameters stay": lambda: _frozen(build),
        "its FLOPs can be counted": lambda: _counted(build, charges),
    }
    return [_row(name, check) for name, check in checks.items()]


def _row(name: str, check: Callable[[], str]) -> Check:
    precision = torch.get_default_dtype()
    try:
        return Check(name, True, check())
    except AssertionError as error:
        return Check(name, False, str(error))
    except Exception as error:  # an external class may fail in any way
        return Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    finally:
        torch.set_default_dtype(precision)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _falls(build: Build) -> str:
    """Say how the loss falls at its own rate, or at 4 or 1/4 times that: a default may be meant for any model."""
    for factor in (1.0, 4.0, 0.25):
        losses = _trained(tiny_model(), build, 60, factor)
        start, end = losses[0], sum(losses[-5:]) / 5
        if end < start - 0.02:
            at = f", at {factor:g} times its rate" if factor != 1 else ""
            return f"from {start:.3f} to {end:.3f} in 60 updates{at}"
    raise AssertionError(f"not in 60 updates, at its rate and at 4 and 1/4 times of it: {start:.3f} to {end:.3f}")


def _deterministic(build: Build) -> str:
    one, other = tiny_model(), tiny_model()
    losses = [_trained(model, build, 12) for model in (one, other)]
    _need(losses[0] == losses[1], "the losses of two runs differ: has the class a generator of its own?")
    _need(_same(one, other), "the weights of two runs differ")
    return "12 updates twice"


def _saved(build: Build) -> str:
    """Check that a fresh optimizer with nothing but the state dict, through a file, goes on to the same bits."""
    (model, expected), (again, losses) = resumed(build)
    _need(losses == expected, "a resumed run has other losses: some state is not in `state` or `param_groups`")
    _need(_same(model, again), "a resumed run ends with other weights")
    return f"saved after {BEFORE} updates, loaded into a fresh optimizer, {AFTER - BEFORE} more to the same bits"


def _micro_batches(build: Build) -> str:
    """Compare in float64, and where a class computes in float32 whatever its parameters are, in float32."""
    apart = 1.0
    for dtype, limit in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        with suppress(Exception) if dtype == torch.float64 else nullcontext():
            a, b = (_trained(tiny_model(dtype=dtype), build, 12, micro=micro) for micro in (SEQUENCES, 2))
            apart = max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))
            if apart < limit:
                return f"8 sequences at once or 2 at a time, in {str(dtype).removeprefix('torch.')}"
    raise AssertionError(f"8 sequences at once and 2 at a time give losses that are {apart:.1e} apart")


def _covered(build: Build) -> str:
    model = tiny_model()
    groups = build(model).param_groups
    check_cover(model, groups)
    decayed = sum(p.ndim < 2 for group in groups if group.get("weight_decay", 0) for p in group["params"])
    _need(not decayed, f"{decayed} vectors are decayed")
    return f"{sum(len(group['params']) for group in groups)} parameters in {len(groups)} groups"


def _follows(build: Build) -> str:
    ends = []
    for factor in (1.0, 0.5):
        model = tiny_model()
        optimizer, objective = build(model), tiny_objective(model)
        train(model, optimizer, objective, 2)
        set_lr(optimizer, factor)
        train(model, optimizer, objective, 12, start=2)
        ends.append(model)
    _need(not _same(*ends), "half the rate from the third update on changes nothing: it follows no schedule")
    return "half the rate from the third update on makes other updates"


def _bfloat16(build: Build) -> str:
    model = tiny_model(dtype=torch.bfloat16)
    losses = _trained(model, build, 20)
    _need(all(loss == loss for loss in losses), "the loss becomes NaN within 20 updates")
    return f"20 updates, to a loss of {losses[-1]:.2f}"


def _frozen(build: Build) -> str:
    model = Unused()
    model.positions.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    _trained(model, build, 12)
    kept = {"a frozen matrix": (model.positions.weight, before.positions.weight)}
    kept["an unused matrix"] = (model.spare.weight, before.spare.weight)
    kept["an unused vector"] = (model.idle, before.idle)
    for name, (now, then) in kept.items():
        _need(torch.equal(now, then), f"{name} has moved")
    _need(not torch.equal(model.embedding.weight, before.embedding.weight), "the embedding has not moved")
    return "12 updates"


def _counted(build: Build, charges: bool) -> str:
    model = tiny_model()
    if not charges:
        per_step = uncharged_per_step(build, model)
        _need(per_step is not None, "they cannot be counted on random gradients: no verdict in FLOPs")
        return f"{per_step:,.0f} of matrix work an update on this model, counted from outside"
    counted, charged = rehearse(build, model, 20)
    _need(abs(charged - counted) <= max(1.0, 0.02 * counted), f"it charges {charged:.3g} FLOPs, not {counted:.3g}")
    return f"{charged / 20:,.0f} of matrix work an update on this model, as it charges them"


def _trained(model: nn.Module, build: Build, steps: int, factor: float = 1.0, micro: int = SEQUENCES) -> list[float]:
    optimizer = build(model)
    set_lr(optimizer, factor)
    return train(model, optimizer, tiny_objective(model, micro), steps)


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
