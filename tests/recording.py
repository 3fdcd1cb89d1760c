"""A run of ours in float64 whose weights and gradients are kept, so that an optimizer's equations can repeat it."""

import torch
from torch import Tensor

import optimizers
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights

STEPS = 50


class Recording:
    """A float64 run of ours, and what a naive version needs to repeat it: each step's weights and gradients."""

    def __init__(self, name: str, steps: int = STEPS, **keywords) -> None:
        self.model = tiny_model(dtype=torch.float64)
        self.optimizer = optimizers.build_optimizer(name, self.model, **keywords)
        self.objective = tiny_objective(self.model, grad_clip=None)
        self.weights, self.grads = [], []
        for step in range(steps):
            self.weights.append(weights(self.model))
            self.optimizer.step(self.objective.bind(step, tiny_batch(step)))
            self.grads.append([p.grad.clone() for p in self.model.parameters()])
        self.end = weights(self.model)

    def at(self, step: int):
        """A model with the weights that step began with."""
        model = tiny_model(dtype=torch.float64)
        with torch.no_grad():
            for p, w in zip(model.parameters(), self.weights[step], strict=True):
                p.copy_(w)
        return model

    def replay(self, update) -> list[Tensor]:
        """The weights that `update(i, w, g, step) -> w` reaches, matrix by matrix, from the same gradients."""
        current = list(START)
        for step, grads in enumerate(self.grads):
            current = [update(i, w, g, step) for i, (w, g) in enumerate(zip(current, grads, strict=True))]
        return current

    def off(self, update) -> float:
        return distance(self.end, self.replay(update), START)


START = weights(tiny_model(dtype=torch.float64))


def decay(w: Tensor, weight_decay: float) -> float:
    return weight_decay if w.ndim >= 2 else 0.0
