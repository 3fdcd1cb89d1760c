"""Classes of torch.optim are registered here as they are."""

from typing import Any

import torch
from torch import Tensor

from .registry import register
from .treatment import Treatment, least_moved


def _kept(p: Tensor, rule: str, numbers: int, flops: float = 0.0) -> Treatment:
    """Make a treatment by torch's rules: state in the parameter's own dtype, and a count of updates in fp32."""
    kept = numbers * p.dtype.itemsize
    return Treatment(rule, kept + 4, flops, least_moved(p, 2 * kept))


def _adamw(optimizer: Any, p: Tensor, tokens: int) -> Treatment:
    return _kept(p, "Adam", (3 if optimizer.defaults["amsgrad"] else 2) * p.numel())


def _sgd(optimizer: Any, p: Tensor, tokens: int) -> Treatment:
    momentum = optimizer.defaults["momentum"]
    kept = p.numel() * p.dtype.itemsize if momentum else 0
    return Treatment("the gradient, with momentum", kept, moved_bytes=least_moved(p, 2 * kept))


def _adagrad(optimizer: Any, p: Tensor, tokens: int) -> Treatment:
    return _kept(p, "over the root of the summed squares", p.numel())


def _adafactor(optimizer: Any, p: Tensor, tokens: int) -> Treatment:
    if p.ndim < 2:
        return _kept(p, "over the root of the averaged squares", p.numel())
    return _kept(p, "the same, the squares kept as a row and a column", sum(p.shape), flops=2 * p.numel())


register(
    "adamw",
    summary="Adam with decoupled weight decay",
    paper="arXiv 1711.05101",
    treat=_adamw,
    about="""AdamW: Adam, its weight decay apart from the gradient (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2).

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
    w <- w - lr wd w - lr m^ / (sqrt(v^) + eps),    m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t)

The baseline of every comparison here. torch's own class, its fused kernel where there is one.""",
    pitfalls="An AdamW whose rate was not tuned flatters every newcomer: tuning it alone is worth about 2x over a "
    "common recipe (Wen et al. 2025). torch's default betas (.9, .999) are not those of language models (.9, "
    ".95).",
    proof="tests/test_equations.py",
)(torch.optim.AdamW)

register(
    "sgd",
    summary="gradient descent with momentum",
    paper="Sutskever et al., ICML 2013",
    treat=_sgd,
    about="""Gradient descent with momentum (Sutskever et al., "On the importance of initialization and momentum").

    u <- g + wd w,    b <- momentum b + (1 - dampening) u,    w <- w - lr b

torch's own class. The weight decay goes through the momentum.""",
    pitfalls="On a transformer no single rate suits embeddings, matrices and vectors alike: far behind the adaptive "
    "methods.",
    proof="tests/test_stock.py",
)(torch.optim.SGD)

register(
    "adagrad",
    summary="steps shrink with the summed squared gradient",
    paper="Duchi et al., JMLR 2011",
    treat=_adagrad,
    about="""Adagrad (Duchi, Hazan & Singer, JMLR 12, 2011).

    u <- g + wd w,    s <- s + u^2,    w <- w - lr / (1 + (t - 1) lr_decay) u / (sqrt(s) + eps)

torch's own class.""",
    pitfalls="The sum only grows: a schedule's decay comes on top of a rate that falls as 1 / sqrt(t) already.",
    proof="tests/test_stock.py",
)(torch.optim.Adagrad)

register(
    "adafactor",
    summary="Adam with a factored second moment",
    paper="arXiv 1804.04235",
    charges=False,  # it multiplies its factors back together
    treat=_adafactor,
    about="""Adafactor: Adam's second moment of a matrix kept as a row and a column (Shazeer & Stern, arXiv 1804.04235).

    b = 1 - t^beta2_decay,    a = max(eps2, rms(w)) min(lr, 1 / sqrt(t))
    r <- b r + (1 - b) mean over columns of g^2,    c <- b c + (1 - b) mean over rows of g^2
    u = g / max(sqrt(r c^T / mean(r)), eps1)
    w <- w - lr wd w - a u / max(1, rms(u) / d)

torch's own class: no momentum, and eps1 bounds the root instead of being added to g^2.""",
    pitfalls="The step is relative to the weights' own size and never above 1 / sqrt(t) of it, whatever `lr` "
    "says: rates do not carry over from Adam.",
    proof="tests/test_stock.py",
)(torch.optim.Adafactor)
