"""Classes as other packages might ship them, each with one habit that torch's own do not have."""

import pathlib

import torch


class WithoutClosure(torch.optim.SGD):
    """Its step() takes no closure: the gradient has to be there."""

    @torch.no_grad()
    def step(self):  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])


class KeepsAPath(torch.optim.SGD):
    """Its state holds what a checkpoint cannot give back safely."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["where"] = pathlib.Path("somewhere")
        return loss


class WantsThePast(torch.optim.SGD):
    """It uses the gradient that is there before it calls the closure."""

    @torch.no_grad()
    def step(self, closure):  # type: ignore[override]
        before = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        for p, g in zip(params, before or [p.grad for p in params], strict=True):
            p.sub_(g + p.grad, alpha=self.param_groups[0]["lr"] / 2)
        return loss


class Counting(torch.optim.SGD):
    """It asks for the model, the run's length and the number of targets, and keeps what it is handed."""

    def __init__(self, model, params, num_iterations: int, num_data: int, lr: float = 0.125):
        super().__init__(params, lr=lr)
        self.model, self.num_iterations, self.num_data = model, num_iterations, num_data


class Unmoved(torch.optim.SGD):
    """It moves every weight by the same step, whatever its rate."""

    @torch.no_grad()
    def step(self, closure):  # type: ignore[override]
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=1e-3)
        return loss


GRAPHS = []  # that the compiler of `Compiles` was handed


@torch.compile(backend=lambda graph, inputs: GRAPHS.append(graph) or graph.forward)
def descend(p, g):
    return p - 0.01 * g


class Compiles(torch.optim.SGD):
    """It compiles its update by itself."""

    @torch.no_grad()
    def step(self, closure):  # type: ignore[override]
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(descend(p, p.grad))
        return loss


class Fails(torch.optim.SGD):
    """Its step fails without a word."""

    def step(self, closure=None):
        assert closure is None


class OwnDecay(torch.optim.SGD):
    """It decays by what its constructor was told, whatever its groups say."""

    def __init__(self, params, lr: float = 0.1, weight_decay: float = 0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.own = weight_decay

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * self.own).sub_(p.grad, alpha=group["lr"])
        return loss
