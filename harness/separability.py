"""Whether ranks can share an optimizer's parameters out is tried on a small model, since no class says it of itself.

Four copies of it are trained in step: one whole, two with every other unit taken out of the optimizer's groups, and one
with nothing left in them. Weights that are taken out come from the whole one, as they come from other ranks.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from conventions.sentence import sentence
from harness.rehearsal import Rehearsal, periods

MOST = 31  # updates: three refreshes of every tenth
VOCABULARY, WIDTH, HIDDEN = 11, 8, 12  # no two parameters are alike in shape


class _SmallModel(nn.Module):
    """A tied embedding and a layer of each kind that optimizers tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, inputs: Tensor, targets: Tensor) -> Any:
        x = self.embedding(inputs)
        logits = self.lm_head(x + self.down(self.up(self.norm(x)).tanh()))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return SimpleNamespace(sum=loss, count=targets.numel(), auxiliary=None)


class _Copy:
    """A copy of the small model, whose optimizer steps on some units alone."""

    def __init__(self, plan: Any, like: Tensor, wanted: Callable[[int], bool]) -> None:
        torch.manual_seed(0)
        self.model = _SmallModel().to(like.device, like.dtype)
        self.optimizer: optim.Optimizer = plan.build(self.model)
        units = plan.units(self.optimizer, self.model, 1)
        self.own = {p for i, unit in enumerate(units) if wanted(i) for p in unit.params}
        self.params = list(self.model.parameters())
        self.objective = Rehearsal.on(self.model)
        self.whole = [group["params"] for group in self.optimizer.param_groups]
        leave_only(self.optimizer, self.own)

    def step(self, number: int) -> None:
        torch.manual_seed(number)  # of random gradients, and of what the optimizer draws
        self.objective.scale = 10.0 ** (number % 4)  # a bound on all gradients may be at work for large ones alone
        self.objective.steps(self.optimizer, 1)

    def saved(self) -> dict[str, Any]:
        """Return the state dict; the groups are whole from here on."""
        for group, params in zip(self.optimizer.param_groups, self.whole, strict=True):
            group["params"] = params
        return self.optimizer.state_dict()


def leave_only(optimizer: optim.Optimizer, own: Collection[Tensor]) -> None:
    """Take all other parameters out of an optimizer's groups, and their state, which some classes make at once."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in own:
                optimizer.state.pop(p, None)
        group["params"] = [p for p in group["params"] if p in own]


def why_inseparable(plan: Any, like: Tensor) -> str | None:
    """Say why no rank can leave a part of the parameters to others; None if it can.

    Args:
        plan: builds the optimizer, and tells its units; see harness.sharding.
        like: a parameter of the run's model: its device and dtype are taken.
    """
    devices = [like.device] if like.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
        try:
            return _try(plan, like)
        except Exception as error:  # an external class may fail in any way
            return f"its step fails where a part of the parameters is left to other ranks ({sentence(error)})"


def _try(plan: Any, like: Tensor) -> str | None:
    whole, *parts = (
        _Copy(plan, like, wanted)
        for wanted in (lambda i: True, lambda i: i % 2 == 0, lambda i: i % 2 == 1, lambda i: False)
    )
    name = type(getattr(whole.optimizer, "wrapped", whole.optimizer)).__name__
    for step in range(min(2 * max(periods(whole.optimizer)) + 1, MOST)):
        before = [p.detach().clone() for p in whole.params]
        whole.step(step)
        for part in parts:
            part.step(step)
            for p, old, new in zip(part.params, before, whole.params, strict=True):
                if p in part.own and not _same(p.detach(), new.detach()):
                    return f"{name}'s update of a parameter depends on the others"
                if p not in part.own and not _same(p.detach(), old):
                    return f"{name} steps on parameters that are not in its groups"
                p.data.copy_(new)
    return _compare(name, whole, parts)


def _compare(name: str, whole: _Copy, parts: Sequence[_Copy]) -> str | None:
    """Compare the state that the copies have come to."""
    complete = whole.saved()
    if complete.keys() != {"state", "param_groups"} or not set(complete["state"]) <= set(range(len(whole.params))):
        return f"{name}'s state dict has a form of its own"
    for part in parts:
        saved = part.saved()
        order = [p for params in part.whole for p in params]
        for i, state in saved["state"].items():
            if state and order[i] not in part.own:
                return f"{name} keeps state of parameters that are not in its groups"
            if not _same(state, complete["state"].get(i, {})):
                return f"{name}'s state of a parameter depends on the others"
        if not _same(saved["param_groups"], complete["param_groups"]):
            return f"{name}'s groups keep what depends on their parameters"
    return None


def _same(one: Any, other: Any) -> bool:
    """Compare nested values to the bit; objects of classes of their own by type alone."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    plain = (bool, int, float, str, type(None))
    return one == other if isinstance(one, plain) and isinstance(other, plain) else type(one) is type(other)
