"""MKOR-H: MKOR, then its backend on plain gradients when the second order no longer pays (arXiv 2306.01685).

The paper says that the hybrid looks at the rate at which the loss falls, and not how. *This rule is ours*, and so are
its figures, which nothing has tuned:

    The training loss is averaged over windows of updates. A window's rate is what its average lies below the one
    before. Once `patience` windows in a row have a rate below `threshold` times the highest so far, the method falls
    back for good: it drops its factors and records nothing more.

Being relative, the rule knows neither the loss's unit nor the warm-up, during which rates rise. A window should be long
enough that its average does not fall by chance.
"""

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .activations import whole_model
from .base import Objective, Reading
from .checks import check_at_least
from .mkor import Mkor
from .registry import register


@register(
    "mkor_h",
    summary="MKOR until the loss falls slowly",
    paper="arXiv 2306.01685, our rule",
    groups=whole_model,
    presets="MKOR's `formula`. The switching rule is ours: neither the paper nor its code has one.",
    pitfalls="What MKOR's are, and a switch that noise can pull: with windows too short a loss that stands still "
    "by chance ends the second order for good.",
    proof="tests/test_mkor.py",
)
class MkorH(Mkor):
    """MKOR's state; in the first group also `second_order`, the window's summed `loss`, `last_loss`, `best_rate` and
    `slow_windows`.

    Args:
        lr, ..., weight_decay: MKOR's.
        window: updates over which the loss is averaged.
        threshold: share of the highest rate, below which a window is slow.
        patience: slow windows in a row before the second order is left.
    """

    def __init__(
        self,
        model: nn.Module,
        /,
        lr: float = 6e-4,
        decay: float = 0.95,
        every: int = 10,
        formula: Literal["exact", "printed", "repo"] = "exact",
        stabilizer: tuple[float, float] = (2.0, 0.9),
        split_qkv: bool = True,
        skip_layers: tuple[str, ...] = (),
        backend: Literal["adamw", "lamb", "sgd"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.9,
        window: int = 100,
        threshold: float = 0.02,
        patience: int = 2,
        weight_decay: float = 0.1,
    ) -> None:
        check_at_least("window", window, 1)
        check_at_least("threshold", threshold, 0)
        check_at_least("patience", patience, 1)
        super().__init__(
            model, lr=lr, decay=decay, every=every, formula=formula, stabilizer=stabilizer, split_qkv=split_qkv,
            skip_layers=skip_layers, backend=backend, betas=betas, eps=eps, momentum=momentum,
            weight_decay=weight_decay,
        )  # fmt: skip
        self.window, self.share, self.patience = window, threshold, patience
        self.param_groups[0].update(second_order=True, loss=None, last_loss=None, best_rate=0.0, slow_windows=0)

    def _gradient(self, objective: Objective) -> tuple[Any, dict[Tensor, Tensor]]:
        if not self.param_groups[0]["second_order"]:
            return objective(), {}
        loss, directions = super()._gradient(objective)
        if loss is None:
            warnings.warn("MKOR-H sees no loss, and stays MKOR: give step a closure that returns it", stacklevel=2)
        else:
            self._watch(torch.as_tensor(loss).detach(), objective.step)
        return loss, directions

    def _watch(self, loss: Tensor, step: int) -> None:
        """Follow the loss and decide on the switch; this waits for the device once in a window."""
        group = self.param_groups[0]
        before = torch.zeros_like(loss) if group["loss"] is None else group["loss"].to(loss.device)
        group["loss"] = before + loss
        if (step + 1) % self.window:
            return
        mean, group["loss"] = group["loss"].item() / self.window, None
        if group["last_loss"] is not None:
            rate = group["last_loss"] - mean
            group["best_rate"] = max(group["best_rate"], rate)
            group["slow_windows"] = group["slow_windows"] + 1 if rate < self.share * group["best_rate"] else 0
        group["last_loss"] = mean
        if group["slow_windows"] >= self.patience:
            group["second_order"] = False
            self.activations.rest()
            for layer in self.activations.of(self.param_groups):
                state = self.state[layer.weight]
                for name in [name for name in state if name.startswith(("left", "right"))]:
                    del state[name]

    def readings(self) -> dict[str, Reading | float]:
        """Return MKOR's readings, and whether it is still at work: 1 or 0."""
        return {"second_order": float(self.param_groups[0]["second_order"]), **super().readings()}
