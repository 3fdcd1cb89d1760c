"""An entry of the registry for any class of another package, built in the manner that a tryout of it found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..checks import check_betas, check_common
from ..param_groups import check_cover
from ..registry import ALLOW_TARGETS, OptimizerInfo
from ..wrapped import CHANGES, wrap
from .assembly import assemble
from .manner import Manner
from .refusals import refusal
from .request import Request, request_of
from .search import check_changes, find_manner, working_manner
from .target import load_class
from .tryout import Tryout


@dataclass(frozen=True)
class External(OptimizerInfo):
    """An optimizer class of another package.

    allow_targets: packages whose classes may be imported, for it and for what it wraps or works beside.
    key: the config's section that names it, for the sentences.
    steps: updates of the run, for a class that asks for them.
    targets: of the training data that count, for a class that asks for their number.
    manner: how it wants to be called; None: a tryout has still to tell.
    """

    allow_targets: tuple[str, ...] = ALLOW_TARGETS
    key: str = "optimizer"
    steps: int = 1000
    targets: int = 1_000_000
    manner: Manner | None = None

    @classmethod
    def of(cls, target: str | None, allow_targets: Sequence[str], key: str = "optimizer") -> "External":
        """Find the class that a target names. Raises ValueError as `load_class` does, or where the class is refused."""
        constructor = load_class(target, allow_targets, f"{key}._target_")
        if reason := refusal(constructor):
            raise ValueError(f"{key}._target_={target} is refused: {reason}")
        about = f"{target}, as its package ships it"
        return cls(constructor.__name__.lower(), constructor, about, str(target), charges=False,
                   allow_targets=tuple(allow_targets), key=key)  # fmt: skip

    @property
    def target(self) -> str:
        """Return the path of the class, as the config has it."""
        return self.paper

    @property
    def request(self) -> Request:
        return request_of(self.constructor)

    def plain(self, model: nn.Module, decay_embeddings: bool = True, **keywords: Any) -> torch.optim.Optimizer:
        """Build the optimizer over the model's parameters, but for the changes to its step.

        Args:
            decay_embeddings: as for every optimizer.
            keywords: of the class's constructor, and the sections `base`, the optimizer that it wraps; `rest`, the
                optimizer of what is no hidden matrix, or keywords of those groups; `hidden`, keywords of the hidden
                matrices' groups.

        Raises:
            ValueError: the class cannot be built or stepped; the sentence has the reason, and the remedy if there is
                one.
        """
        manner = self.manner or self.tried(_place(model), decay_embeddings, **keywords).manner
        assert manner is not None
        optimizer = assemble(self, model, manner, decay_embeddings, keywords)
        check_cover(model, optimizer.param_groups)
        for group in optimizer.param_groups:
            if "lr" in group and manner.heeds_schedule is not False:
                group["initial_lr"] = float(group["lr"])
        return optimizer

    def tried(self, device: str = "cpu", decay_embeddings: bool = True, **keywords: Any) -> "External":
        """Return this entry with the manner that a tryout on a device found.

        Args:
            keywords: those of `plain`, and the changes to the step, which are tried too.

        Raises:
            ValueError: as `plain` does, or a change makes no sense for this class.
        """
        device, changes = _real(device), _taken(keywords)
        check_common(keywords.get("lr") or 0.0, keywords.get("weight_decay") or 0.0)
        if isinstance(betas := keywords.get("betas"), (list, tuple)):
            check_betas([beta for beta in betas if beta is not None])  # None: the class's own

        def build(manner: Manner, on: nn.Module) -> torch.optim.Optimizer:
            return assemble(self, on, manner, decay_embeddings, keywords)

        manner = find_manner(self, working_manner(self, build, device, keywords), build, device)
        if changes:
            check_changes(self, lambda on: build(manner, on), device, changes)
        return replace(self, manner=manner)

    def stepped(self, device: str = "cpu", decay_embeddings: bool = True, **keywords: Any) -> torch.optim.Optimizer:
        """Return the optimizer after two steps on a tryout model. Raises ValueError as `tried` does."""
        manner = self.manner or self.tried(device, decay_embeddings, **keywords).manner
        assert manner is not None
        changes = _taken(keywords)

        def build(on: nn.Module) -> torch.optim.Optimizer:
            return wrap(assemble(self, on, manner, decay_embeddings, keywords), on, **changes)

        tryout = Tryout(build, _real(device))
        tryout.steps(2)
        return tryout.optimizer

    def handed(self, base: Any = None, rest: Any = None, **_: Any) -> list[str]:
        """Say what the class was handed beside its keywords, in a few words each."""
        asked, manner = self.request.asked, self.manner or Manner()
        words = {"model": "the model", "named": "parameters with their names",
                 "steps": "the number of updates", "data": "the number of targets"}  # fmt: skip
        if base and rest and "specs" in asked:
            return [f"hidden matrices with {base['_target_']}", f"the rest with {rest['_target_']}"]
        said = [manner.shown(self.request.flag)] if "params" in asked else []
        said += [word for kind, word in words.items() if kind in asked]
        said += [f"the rest to {rest['_target_']}"] if rest and "_target_" in rest else []
        said += [f"{base['_target_']} as {'a class' if manner.base == 'class' else 'an instance'}"] if base else []
        said += [] if manner.takes_closure else ["no closure"]
        said += ["the gradient before step()"] if manner.gradient_before else []
        said += ["a gradient of zero before the first step"] if manner.gradient_exists else []
        return [each for each in said if each] + (["a gradient with its graph"] if manner.graph else [])


def _taken(keywords: dict[str, Any]) -> dict[str, Any]:
    """Take the changes to the step out of the keywords, and return them."""
    return {key: keywords.pop(key) for key in CHANGES if key in keywords}


def _real(device: str) -> str:
    return "cpu" if device == "meta" else device


def _place(model: nn.Module) -> str:
    return str(next(model.parameters()).device)
