"""Newton-Schulz iteration pushes the singular values of a matrix towards 1 by matrix products: Muon's quintic.

    X <- (a I + b G + c G^2) X,  G = X X^T,  a few times, from X / |X|

In float32 and float64 the steps are taken on G alone, as small as X's shorter side, and X is multiplied once at last:

    P = a I + b G + c G^2,   Q <- P Q,   G <- P G P

All of these are polynomials in the first G, so they are symmetric and commute, and the upper triangle is enough. For X
four times as long as high that is 2.6 times fewer FLOPs. Rounding gives the null space of X in G eigenvalues of
either sign, and below zero they grow by a^2 and more a step: hence a fresh G every five. In bfloat16, whose rounding is
65,000 times as large, X itself is iterated, as its author does.

Steps with the cubic 1.5 x - .5 x^3 may follow, which bring singular values near 1 to 1: the same with c = 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .kronecker import gram_flops, strips

# The quintic a x + b x^3 + c x^5, tuned by its author for the largest slope at 0; it maps (0, 1] to about (.7, 1.2).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
POLISH = (1.5, -0.5, 0.0)
FRESH = 5  # steps on one G
Polynomial = tuple[float, float, float]  # a, b, c
SMALL = 1e-7  # a matrix whose norm is less is not blown up


def newton_schulz(matrices: Tensor, steps: int, polish: int = 0) -> Tensor:
    """Push all singular values of each matrix towards 1.

    Args:
        matrices: (..., rows, columns), in the dtype that the iteration is to run in.
        steps: of the quintic.
        polish: steps of the cubic after those.

    Returns:
        The same shape: U S V^T with S about 1, where matrices = U Sigma V^T.
    """
    steps_left = _polynomials(steps, polish)
    short, long = sorted(matrices.shape[-2:])
    tall = matrices.shape[-2] > short  # then X^T is meant, and kept as it lies in memory
    # Divided by its Frobenius norm, X has no singular value above 1.
    if _on_gram(short, long, steps_left, matrices.dtype):
        gram = _gram(matrices, tall)
        norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt_().clamp_(min=SMALL)[..., None, None]
        q = _several_steps(gram.div_(norm.square()), steps_left[:FRESH]).div_(norm)
        x = matrices @ q if tall else q @ matrices
        for done in range(FRESH, len(steps_left), FRESH):
            q = _several_steps(_gram(x, tall), steps_left[done : done + FRESH])
            x = x @ q if tall else q @ x
        return x
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_(min=SMALL)
    for a, b, c in steps_left:
        p = _polynomial(_gram(x, tall), b, c)
        x = torch.add(x @ p if tall else p @ x, x, alpha=a)
    return x


def _polynomials(steps: int, polish: int) -> list[Polynomial]:
    """Return the (a, b, c) of each step."""
    return [COEFFICIENTS] * steps + [POLISH] * polish


def _polynomial(gram: Tensor, b: float, c: float) -> Tensor:
    """Return b G + c G^2."""
    return symmetric(gram, gram).mul_(c).add_(gram, alpha=b) if c else gram * b


def _gram(x: Tensor, tall: bool) -> Tensor:
    """Return X's Gram matrix on its shorter side, (..., short, short)."""
    return symmetric(x.mT, x) if tall else symmetric(x, x.mT)


def _several_steps(gram: Tensor, polynomials: Sequence[Polynomial]) -> Tensor:
    """Return Q, (..., short, short), from X's Gram matrix; Q X is X after so many steps."""
    product = None
    for left, (a, b, c) in zip(reversed(range(len(polynomials))), polynomials, strict=True):
        p = _polynomial(gram, b, c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        if left:
            gram = symmetric(p, symmetric(p, gram))
        product = p if product is None else symmetric(p, product)
    assert product is not None
    return product


def symmetric(x: Tensor, y: Tensor) -> Tensor:
    """Return x y where that is symmetric: (..., n, k) times (..., k, n), the blocks below the diagonal mirrored."""
    n = x.shape[-2]
    out = x.new_empty(*x.shape[:-2], n, n)
    for top, bottom in strips(n):
        torch.matmul(x[..., top:bottom, :], y[..., top:], out=out[..., top:bottom, top:])
        out[..., bottom:, top:bottom] = out[..., top:bottom, bottom:].mT
    return out


def _on_gram(short: int, long: int, polynomials: Sequence[Polynomial], dtype: torch.dtype) -> bool:
    cheaper = _gram_flops(short, long, polynomials) < _direct_flops(short, long, polynomials)
    return cheaper and dtype in (torch.float32, torch.float64)


def newton_schulz_flops(shape: Sequence[int], steps: int, dtype: torch.dtype, polish: int = 0) -> int:
    """Count FLOPs, 2 for a multiply-add; a symmetric product counts what is computed of it."""
    short, long = sorted(shape)
    polynomials = _polynomials(steps, polish)
    count = _gram_flops if _on_gram(short, long, polynomials, dtype) else _direct_flops
    return count(short, long, polynomials)


def _squares(polynomials: Sequence[Polynomial]) -> int:
    """Count the steps that need G^2."""
    return sum(c != 0 for *_, c in polynomials)


def _direct_flops(short: int, long: int, polynomials: Sequence[Polynomial]) -> int:
    each = gram_flops(short, long) + 2 * short**2 * long
    return len(polynomials) * each + _squares(polynomials) * gram_flops(short, short)


def _gram_flops(short: int, long: int, polynomials: Sequence[Polynomial]) -> int:
    flops = 0
    for done in range(0, len(polynomials), FRESH):
        taken = polynomials[done : done + FRESH]
        flops += gram_flops(short, long) + 2 * short**2 * long
        flops += (_squares(taken) + 3 * (len(taken) - 1)) * gram_flops(short, short)
    return flops
