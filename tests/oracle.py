"""A float64 run on a model small enough for whole Kronecker products, and what passed through its linear layers.

The rows are taken here by retained gradients on a second model, not by the package's hooks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import optimizers
from tests.tiny import distance, tiny_batch, tiny_model, tiny_objective, weights

STEPS = 50
Named = dict[str, Tensor]


def small_model(bias: bool = False) -> nn.Module:
    return tiny_model(dtype=torch.float64, layers=1, width=6, bias=bias)


def named(model: nn.Module) -> Named:
    return dict(zip([name for name, _ in model.named_parameters()], weights(model), strict=True))


class Run:
    """50 updates of an optimizer of ours: each step's weights and gradients, and what a naive version makes of them."""

    def __init__(self, name: str, bias: bool = False, steps: int = STEPS, **keywords) -> None:
        self.bias, self.steps = bias, steps
        self.model = small_model(bias)
        self.start = named(self.model)
        self.optimizer = optimizers.build_optimizer(name, self.model, **keywords)
        objective = tiny_objective(self.model, grad_clip=None)
        self.weights: list[Named] = []
        self.grads: list[Named] = []
        for step in range(steps):
            self.weights.append(named(self.model))
            self.optimizer.step(objective.bind(step, tiny_batch(step)))
            self.grads.append({name: p.grad.clone() for name, p in self.model.named_parameters()})
        self.end = named(self.model)

    def state(self, weight: str) -> Named:
        return self.optimizer.state[dict(self.model.named_parameters())[weight]]

    def rows(self, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return by weight the inputs (tokens, in), a last column of 1 for a bias, and the gradients (tokens, out)."""
        model = small_model(self.bias)
        model.load_state_dict(self.weights[step], strict=False)
        return layer_rows(model, lambda: model(*tiny_batch(step)).mean)

    def off(self, update: Callable[[int, Named, Named], Named]) -> float:
        """How far `update(step, weights, gradients)` ends from us, in lengths of the way."""
        current = dict(self.start)
        for step, grads in enumerate(self.grads):
            current = update(step, current, grads)
        names = list(self.end)
        ours, theirs, start = ([values[n] for n in names] for values in (self.end, current, self.start))
        return distance(ours, theirs, start)


def layer_rows(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module, args, output):
            output.retain_grad()
            kept[name] = (args[0].detach(), output)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(keep(f"{name}.weight"))
    loss().backward()
    result = {}
    for name, (inputs, output) in kept.items():
        a, g = inputs.flatten(0, -2), output.grad.flatten(0, -2)
        if model.get_submodule(name.removesuffix(".weight")).bias is not None:
            a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], dim=1)
        result[name] = (a, g)
    return result


def joined(values: Named, weight: str) -> Tensor:
    """A layer's matrix with its bias as the last column, if it has one."""
    bias = values.get(weight.replace("weight", "bias"))
    return values[weight] if bias is None else torch.cat([values[weight], bias[:, None]], dim=1)


def put(values: Named, weight: str, matrix: Tensor) -> None:
    """Undo `joined`."""
    bias = weight.replace("weight", "bias")
    if bias in values:
        values[weight], values[bias] = matrix[:, :-1], matrix[:, -1]
    else:
        values[weight] = matrix
