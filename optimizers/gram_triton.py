"""G <- beta G + alpha X X^T on a GPU, by a kernel that computes the tiles on and above the diagonal and mirrors them.

Imported where it is used, since Triton comes with CUDA builds of torch only. Half of a whole product's work, against
the seven twelfths of optimizers.kronecker's strips, in one launch instead of six. Its speed is not measured yet, so
that nothing takes it unless it is asked for (SOAP's `gram=triton`).
"""

import triton
import triton.language as tl
from torch import Tensor

TILE, DEPTH = 64, 32  # of G; of X's columns at a time


@triton.jit
def _upper_tiles(g, x, n, columns, g_row, x_row, x_column, beta, alpha, TILE: tl.constexpr, DEPTH: tl.constexpr):
    row, column = tl.program_id(0), tl.program_id(1)
    if row > column:
        return
    i = row * TILE + tl.arange(0, TILE)
    j = column * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, columns, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(
            x + i[:, None] * x_row + k[None, :] * x_column, mask=(i[:, None] < n) & (k[None, :] < columns), other=0.0
        )
        b = tl.load(
            x + j[None, :] * x_row + k[:, None] * x_column, mask=(j[None, :] < n) & (k[:, None] < columns), other=0.0
        )
        total += tl.dot(a, b, input_precision="ieee")
    place, inside = g + i[:, None] * g_row + j[None, :], (i[:, None] < n) & (j[None, :] < n)
    before = tl.load(place, mask=inside, other=0.0)
    result = beta * before + alpha * total
    tl.store(place, result, mask=inside)
    if row < column:
        tl.store(g + j[:, None] * g_row + i[None, :], tl.trans(result), mask=(j[:, None] < n) & (i[None, :] < n))


def gram_flops(n: int, columns: int) -> int:
    tiles = triton.cdiv(n, TILE)
    return tiles * (tiles + 1) * TILE**2 * columns


def average_gram_(factor: Tensor, x: Tensor, beta: float) -> Tensor:
    """factor <- beta factor + (1 - beta) x x^T, in place and whole.

    factor: (n, n) float32, rows contiguous; x: (n, columns) float32 of any strides.
    """
    n, columns = x.shape
    tiles = triton.cdiv(n, TILE)
    _upper_tiles[(tiles, tiles)](
        factor, x, n, columns, factor.stride(0), x.stride(0), x.stride(1), beta, 1 - beta, TILE=TILE, DEPTH=DEPTH
    )
    return factor
