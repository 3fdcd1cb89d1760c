"""Where an update's time goes: each part of a contender's, timed alone at the update's own shapes."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from scripts.bench.contenders import Contender, Setting
from scripts.bench.timing import timed


def parts(one: Contender, rate: float) -> dict[str, float]:
    """Seconds per update of each part at its best; `rest` is what they leave of an update at `rate` tokens/s."""
    setting = one.setting
    passes = setting.sequences // setting.micro
    found = {
        "linear layers": passes * sum(linear(setting, layer) for layer in one.linear_layers()),
        "attention": passes * setting.layers * attention(setting),
        "head and loss": passes * head_and_loss(one),
        "clip and update": timed(setting, one.update),
    }
    return {**found, "rest": setting.batch_tokens / rate - sum(found.values())}


def floors(setting: Setting, flops_per_token: int, peak: float) -> dict[str, float]:
    """Seconds per update that the matrix products of each part would take at the machine's best."""
    attention = 12 * setting.layers * setting.width * setting.context
    head = 6 * setting.vocabulary * setting.width
    flops = {"linear layers": flops_per_token - attention - head, "attention": attention, "head and loss": head}
    return {name: setting.batch_tokens * value / peak for name, value in flops.items()}


def linear(setting: Setting, layer: nn.Linear) -> float:
    x = torch.randn(setting.micro * setting.context, layer.in_features, device=setting.device, requires_grad=True)
    return both_ways(setting, lambda: layer(x), [x, *layer.parameters()])


def attention(setting: Setting) -> float:
    """Of one block, with the copies that its layout costs: the heads lie side by side in (B, T, 3 width)."""
    shape = (setting.micro, setting.context, 3 * setting.width)
    qkv = torch.randn(shape, device=setting.device, requires_grad=True)

    def forward() -> torch.Tensor:
        q, k, v = (x.unflatten(2, (setting.heads, -1)).transpose(1, 2) for x in qkv.split(setting.width, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(setting.micro, setting.context, setting.width)

    return both_ways(setting, forward, [qkv])


def head_and_loss(one: Contender) -> float:
    setting = one.setting
    rows = setting.micro * setting.context
    x = torch.randn(rows, setting.width, device=setting.device, requires_grad=True)
    targets = torch.randint(setting.vocabulary, (rows,), device=setting.device)
    return both_ways(setting, lambda: one.head_loss(x, targets), [x, one.embedding])


def both_ways(setting: Setting, forward: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> float:
    """Seconds of a forward and backward pass."""

    def run() -> None:
        with setting.autocast():
            y = forward()
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    return timed(setting, run)
