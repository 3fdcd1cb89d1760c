"""A parameter is cut into pieces that a matrix method treats one by one: the matrices that it holds, and their blocks.

A fused qkv is three matrices in one parameter. Which parameters are several, and how many outputs each matrix has, is
told by the model's roles and stands in the parameter's group (see `optimizers.param_groups`). Every matrix method asks
here for the pieces, and its keyword `split_qkv` says whether such a parameter is taken apart or is one matrix.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple

from torch import Tensor

from .kronecker import spread


class PieceState(MutableMapping[str, Any]):
    """One piece's share of a parameter's state: what the piece calls `left` is kept as `left.2`, say."""

    def __init__(self, whole: MutableMapping[str, Any], suffix: str) -> None:
        self.whole, self.suffix = whole, suffix

    def __getitem__(self, name: str) -> Any:
        return self.whole[name + self.suffix]

    def __setitem__(self, name: str, value: Any) -> None:
        self.whole[name + self.suffix] = value

    def __delitem__(self, name: str) -> None:
        del self.whole[name + self.suffix]

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(self.suffix) for name in self.whole if name.endswith(self.suffix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Piece(NamedTuple):
    """A piece of a parameter, or all of it.

    at: its rows and columns.
    suffix: of the names of its state; empty where the parameter is one piece, whose place is then not looked at.
    """

    at: tuple[slice, slice]
    shape: tuple[int, ...]
    suffix: str = ""

    def of(self, x: Tensor) -> Tensor:
        """Return the piece's part of a tensor with the parameter's shape, in the same memory."""
        return x[self.at] if self.suffix else x

    def state(self, state: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the piece's share of the parameter's state."""
        return PieceState(state, self.suffix) if self.suffix else state


def cut(
    shape: Sequence[int], outputs: Sequence[int] = (), transposed: bool = False, block: int | None = None
) -> list[Piece]:
    """Cut a matrix into the matrices that it holds, and each of them into blocks; what is no matrix is one piece.

    Args:
        outputs: of each matrix, one after the other along the rows (or the columns); empty: it is one matrix.
        transposed: the outputs are the columns.
        block: rows and columns of a block at most, the last of either may be smaller; None: no blocks.
    """
    if len(shape) != 2:
        return [Piece((slice(None), slice(None)), tuple(shape))]
    sizes: list[Sequence[int]] = [(shape[0],), (shape[1],)]
    if outputs:
        sizes[1 if transposed else 0] = outputs
    rows, columns = (
        [slice(first, min(first + (block or end), end)) for start, end in pairwise((0, *accumulate(each)))
         for first in range(start, end, block or end)]
        for each in sizes
    )  # fmt: skip
    several = len(rows) * len(columns) > 1
    return [
        Piece((r, c), (r.stop - r.start, c.stop - c.start), f".{i}" * several)
        for i, (r, c) in enumerate(product(rows, columns))
    ]


def pieces(p: Tensor, group: Mapping[str, Any], split: bool, block: int | None = None) -> list[Piece]:
    """Cut a parameter as its group and an optimizer's keywords `split_qkv` and `block` say."""
    return cut(p.shape, group.get("outputs", ()) if split else (), group.get("transposed", False), block)


class Matrix(NamedTuple):
    """A piece whose sides have Kronecker factors.

    sides: that have one: 0 the rows, 1 the columns; none of a vector, or of what is treated without them.
    due: the step, modulo the interval of refreshes, in which it is refreshed.
    """

    piece: Piece
    sides: list[int]
    due: int


def matrices(
    groups: Iterable[Mapping[str, Any]],
    sides: Callable[[Sequence[int], bool], list[int]],
    cost: Callable[[Sequence[int], list[int]], int],
    *,
    split: bool,
    block: int | None,
    every: int,
    stagger: bool,
) -> dict[Tensor, list[Matrix]]:
    """Cut the parameters of groups, tables into no blocks.

    Args:
        sides: of a shape, and whether it is a table's, that have factors.
        cost: of a refresh of such sides.
        stagger: spread the refreshes over `every` steps; otherwise all are due in the first.
    """
    cuts = {
        p: [(piece, sides(piece.shape, group.get("table", False))) for piece in
            pieces(p, group, split, None if group.get("table") else block)]
        for group in groups for p in group["params"]
    }  # fmt: skip
    costs = [cost(piece.shape, own) for each in cuts.values() for piece, own in each]
    due = iter(spread(costs, every) if stagger else [0] * len(costs))
    return {p: [Matrix(*each, next(due)) for each in own] for p, own in cuts.items()}
