"""Rotations go into an eigenbasis, QL^T x QR, and out of it, QL x QR^T, exactly or in products of fewer bits."""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

DTYPES = ("float32", "tf32", "bfloat16")


def rotate(x: Tensor, state: MutableMapping[str, Tensor], dtype: str = "float32") -> Tensor:
    """Return QL^T x QR, in x's own dtype, with the sides that the state has a basis for.

    Args:
        dtype: of the products: float32 (or wider, as the state is), tf32 (a GPU's) or bfloat16, summed in float32.
    """
    return _between(x, state, dtype, into=True)


def rotate_back(x: Tensor, state: MutableMapping[str, Tensor], dtype: str = "float32") -> Tensor:
    """Return QL x QR^T, likewise."""
    return _between(x, state, dtype, into=False)


def rotation_flops(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Count the FLOPs of a rotation of a matrix on these of its sides: 0 the rows, 1 the columns."""
    return sum(2 * shape[0] * shape[1] * shape[axis] for axis in axes)


def _between(x: Tensor, state: MutableMapping[str, Tensor], dtype: str, into: bool) -> Tensor:
    if "left_basis" not in state and "right_basis" not in state:
        return x
    own = x.dtype
    narrow = torch.bfloat16 if dtype == "bfloat16" else own
    x = x.to(narrow)
    with _tf32(dtype == "tf32"):
        if "left_basis" in state:
            left = state["left_basis"].to(narrow)
            x = (left.mT if into else left) @ x
        if "right_basis" in state:
            right = state["right_basis"].to(narrow)
            x = x @ (right if into else right.mT)
    return x.to(own)


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    try:
        if wanted:
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        if wanted:
            torch.set_float32_matmul_precision(before)
