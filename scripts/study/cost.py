"""Finds what a step of an optimizer costs beyond the gradient, from what it announces and from a rehearsal."""

from dataclasses import dataclass

from torch import nn

from harness.recorder import tensor_bytes
from harness.rehearsal import Rehearsal, passes_per_step, uncharged_per_step
from optimizers.registry import OptimizerInfo
from optimizers.treatment import Treatment
from scripts.study.toy import Build, tiny_model

# FLOPs in gradients: the passes forward and backward are one; a Hessian-vector product differentiates both once more,
# in a pass of its own or in the gradient's.
PASS = {"gradient": 1.0, "sampled_grads": 1.0, "hvp": 3.0, "joint_hvp": 2.0}


@dataclass(frozen=True)
class UpdateCost:
    """Holds what one update costs.

    treatments: by parameter; of a class that announces nothing, the state that one step has left there.
    announced: whether the optimizer itself announced the treatments, with the FLOPs in them.
    state_bytes: of all parameters.
    flops: of the optimizer's matrix work, averaged over a period of refreshes; None: unknown.
    passes: over the whole batch, by the Objective's method: {"gradient": 1.0, "sampled_grads": .05, "hvp": 0.0}.
    """

    treatments: dict[str, Treatment]
    announced: bool
    state_bytes: int
    flops: float | None
    passes: dict[str, float]

    @property
    def extra_passes(self) -> float:
        """Return the cost of the passes beyond the first gradient, in gradients."""
        return sum(PASS[kind] * number for kind, number in self.passes.items()) - 1


def cost(info: OptimizerInfo, build: Build, model: nn.Module, tokens: int) -> UpdateCost:
    """Find what an update of `model` on so many tokens costs; an optimizer that announces it needs no memory (meta)."""
    announced = info.treatments(build(model), model, tokens)
    passes = passes_per_step(build, smallest_model())
    if announced is not None:
        state = sum(each.state_bytes for each in announced.values())
        return UpdateCost(announced, True, state, sum(each.flops for each in announced.values()), passes)
    optimizer = build(model)
    Rehearsal.on(model).steps(optimizer, 1)
    kept = {
        name: Treatment("as its package does", tensor_bytes(optimizer.state.get(p, {})))
        for name, p in model.named_parameters()
    }
    return UpdateCost(kept, False, tensor_bytes(optimizer.state.values()), uncharged_per_step(build, model), passes)


def smallest_model() -> nn.Module:
    """Build a model on which an optimizer's passes are counted."""
    return tiny_model(layers=1, heads=1, width=4, context=2, vocabulary=4)
