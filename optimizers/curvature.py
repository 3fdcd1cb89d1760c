"""Curvature estimators are objects that estimate the diagonal of the Hessian or of the Gauss-Newton matrix.

Each is called with an Objective, narrowed perhaps to a part of the batch, and returns a tensor per parameter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Objective


@dataclass(frozen=True)
class GaussNewtonBartlett:
    """B g^ * g^, with g^ the gradient of the mean loss on labels drawn from the model's own softmax.

    Sophia, arXiv 2305.14342, algorithm 2. B is the number of labels behind g^, one for each target that counts: they
    are independent given the inputs, so B E[g^ * g^] is the diagonal of the Gauss-Newton matrix of the mean loss.

    scaled: False divides by the batch's tokens, all of them, and leaves that factor to the caller.
    clip: largest 2-norm of g^ before it is squared (the authors' code has 1.0); None leaves it alone.
    """

    scaled: bool = True
    clip: float | None = None

    def __call__(self, objective: Objective) -> list[Tensor]:
        grads = objective.sampled_grads()
        scale: Tensor | float = 1.0
        if self.clip is not None:
            norm = torch.nn.utils.get_total_norm(grads)
            scale = (self.clip / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
        counted = objective.num_targets.double()
        root = (counted if self.scaled else counted / objective.num_tokens).sqrt()
        return [(g * (scale * root)).square_() for g in grads]


@dataclass(frozen=True)
class Hutchinson:
    """u * (H u): Sophia-H's estimator with u ~ N(0, I) (arXiv 2305.14342, algorithm 1).

    rademacher: draw u from {-1, 1}, as AdaHessian does (arXiv 2006.00719): no variance from the diagonal itself.
    """

    rademacher: bool = False

    def __call__(self, objective: Objective) -> list[Tensor]:
        probes = self._probes(objective)
        return [u.mul_(hu) for u, hu in zip(probes, objective.hvp(probes), strict=True)]

    def with_gradient(self, objective: Objective) -> tuple[Tensor, list[Tensor]]:
        """Return the loss and the estimate, with the gradient in `.grad`, all from one pass."""
        probes = self._probes(objective)
        loss, products = objective.gradient_and_hvp(probes)
        return loss, [u.mul_(hu) for u, hu in zip(probes, products, strict=True)]

    def _probes(self, objective: Objective) -> list[Tensor]:
        return [self._draw(p, objective.generator(("probe", i))) for i, p in enumerate(objective.params)]

    def _draw(self, p: Tensor, generator: torch.Generator) -> Tensor:
        if self.rademacher:
            return torch.randint(0, 2, p.shape, generator=generator, device=p.device).mul_(2).sub_(1).to(p.dtype)
        return torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)
