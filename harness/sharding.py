"""The ranks of a run share the optimizer's work out: each parameter has an owner, who updates it and keeps its state.

Every rank builds the whole optimizer and then takes out of its groups what others own. A step updates what is left, and
`gather` brings the new weights to all ranks. No optimizer knows of it, and no bit changes: what a rank computes of a
parameter does not depend on the others, or the optimizer says which belong together, or the work is not shared out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn, optim

from harness.distributed import Ranks, alike
from harness.separability import leave_only, why_inseparable

T = TypeVar("T")


class Shareable(Protocol):
    """Parameters that one rank updates; see optimizers.units."""

    @property
    def params(self) -> tuple[Tensor, ...]: ...

    @property
    def work(self) -> float: ...

    @property
    def state_bytes(self) -> int: ...


class _Plan(Protocol):
    """Builds an optimizer, and tells its units; see optimizers.plan."""

    def build(self, model: nn.Module) -> optim.Optimizer: ...

    def units(self, optimizer: optim.Optimizer, model: nn.Module, tokens: int) -> Sequence[Any]: ...


def owners(units: Sequence[Shareable], world: int) -> list[int]:
    """Return the rank that owns each unit: the one with the least work so far, where the largest are given out first.

    Among ranks with the same work it is the one with the least state. State is divided as well as the work lets it:
    Muon's is mostly that of the embedding, and its work is all elsewhere.
    """
    work, state, owner = [0.0] * world, [0] * world, [0] * len(units)
    for i in sorted(range(len(units)), key=lambda i: (-units[i].work, -units[i].state_bytes)):
        rank = min(range(world), key=lambda rank: (work[rank], state[rank], rank))
        owner[i] = rank
        work[rank] += units[i].work
        state[rank] += units[i].state_bytes
    return owner


class Sharding:
    """The units of an optimizer over the ranks.

    Args:
        optimizer: whole; the groups of this rank's keep its own parameters alone. None: there is none to share out.
        units: all of them.
        reason: why every rank steps on all parameters, and nothing is shared out; with one rank there need be none.
    """

    def __init__(
        self, optimizer: optim.Optimizer | None, units: Sequence[Shareable], ranks: Ranks, reason: str | None
    ) -> None:
        self.optimizer, self.units, self.ranks, self.reason = optimizer, units, ranks, reason
        self.active = ranks.world > 1 and reason is None
        self.owner = owners(units, ranks.world) if self.active else [ranks.rank] * len(units)
        self.rank_of = {p: rank for unit, rank in zip(units, self.owner, strict=True) for p in unit.params}
        self._whole: list[list[Tensor]] = []
        self._trim()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups if self.optimizer else []

    @property
    def state_bytes(self) -> int:
        """Return the bytes of state to come on this rank."""
        return self._of_ranks(lambda unit: unit.state_bytes)[self.ranks.rank]

    def gather(self) -> None:
        """Bring every parameter from its owner to all ranks, a bucket of each owner's at a time."""
        if not self.active:
            return
        params: list[list[Tensor]] = [[] for _ in range(self.ranks.world)]
        for p, rank in self.rank_of.items():
            params[rank].append(p)
        with torch.no_grad():
            for buckets in zip_longest(*map(alike, params)):
                sent = [self.ranks.start_copy(bucket or [], rank) for rank, bucket in enumerate(buckets)]
                for pending in sent:
                    pending.wait()

    def gathered(self, weights: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
        """Return a context in which the weights are those that a context of the optimizer sets, on all ranks."""
        return self._gathered(weights) if self.active and not isinstance(weights, nullcontext) else weights

    @contextmanager
    def _gathered(self, weights: AbstractContextManager[Any]) -> Iterator[None]:
        with weights:
            self.gather()
            yield
        self.gather()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put all parameters back into the groups inside: for the state dict, whose indices count them."""
        for group, params in zip(self._groups, self._whole, strict=True):
            group["params"] = params
        try:
            yield
        finally:
            self._trim()  # the groups may be others now

    def keep(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Return a whole state dict without the state of what others own."""
        if not self.active:
            return saved
        own = [self.rank_of[p] == self.ranks.rank for params in self._whole for p in params]
        return {**saved, "state": {i: state for i, state in saved["state"].items() if own[i]}}

    def each(self, value: T) -> list[T]:
        """Return the values of the ranks, each of which speaks for its own parameters; one where nothing is shared."""
        return self.ranks.each(value) if self.active else [value]

    def total(self, value: int) -> int:
        """Return the sum over those ranks."""
        return sum(self.each(value))

    def join_(self, tensor: Tensor) -> None:
        """Add up, in place, what each rank found of its own parameters."""
        if self.active:
            self.ranks.sum_([tensor])

    def facts(self) -> dict[str, Any] | None:
        """Return what the manifest says of it; None with one rank."""
        if self.ranks.world == 1:
            return None
        if not self.active:
            return {"shared": False, "reason": self.reason}
        shares = {"work": self.share_of(lambda unit: unit.work), "state": self.share_of(lambda unit: unit.state_bytes)}
        return {"shared": True, "units": len(self.units), **shares}

    def share_of(self, cost: Callable[[Shareable], Any]) -> list[float]:
        """Return each rank's share of a cost."""
        parts = self._of_ranks(cost)
        return [round(part / (sum(parts) or 1), 4) for part in parts]

    def _of_ranks(self, cost: Callable[[Shareable], Any]) -> list[Any]:
        parts = [0] * self.ranks.world
        for unit, rank in zip(self.units, self.owner, strict=True):
            parts[rank] += cost(unit)
        return parts

    def _trim(self) -> None:
        self._whole = [list(group["params"]) for group in self._groups]
        if self.active and self.optimizer:
            leave_only(self.optimizer, {p for p, rank in self.rank_of.items() if rank == self.ranks.rank})


def share_out(
    wanted: bool, plan: _Plan, optimizer: optim.Optimizer, model: nn.Module, tokens: int, ranks: Ranks
) -> Sharding:
    """Share an optimizer out over the ranks, if it is wanted and changes nothing; the first rank says if it is not.

    Args:
        tokens: of a batch.
    """
    reason = None
    if ranks.world > 1:
        reason = ranks.agree("shard_optimizer=false" if not wanted else why_inseparable(plan, next(model.parameters())))
        if reason and wanted and ranks.first:
            print(f"every one of the {ranks.world} ranks repeats the optimizer's work: {reason}", flush=True)
    return Sharding(optimizer, plan.units(optimizer, model, tokens), ranks, reason)
