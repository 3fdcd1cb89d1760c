"""Update rules of one parameter, run over all parameters of a group: operation by operation, or compiled.

Operation by operation, a rule streams its tensors through memory a dozen times; compiled (torch.compile), the loops
over a parameter become one, or two where a norm stands between them, and a whole group is one call. A rule is written
once for both, with the numbers it takes as floats or, compiled, as scalar tensors: Dynamo would make a graph for every
learning rate, and what it does with a float that changes is wrong in torch 2.13 (`add_(x, alpha=lr)` keeps an old lr).
"""

import shutil
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

Number = float | Tensor
Row = tuple[Tensor | None, ...]

_compiling = False


def compile_kernels(wanted: bool) -> None:
    """Whether the rules run compiled from now on, in this process. They differ by rounding alone.

    Raises:
        ValueError: there is no C++ compiler, and no GPU to do without one.
    """
    global _compiling
    if wanted and not torch.cuda.is_available():
        from torch._inductor import config

        compilers = [c for c in (config.cpp.cxx if isinstance(config.cpp.cxx, tuple) else [config.cpp.cxx]) if c]
        if not any(map(shutil.which, compilers)):
            raise ValueError(
                f"compile=true needs a C++ compiler on a CPU, and there is no {' or '.join(compilers)}: "
                "install g++, name yours in the environment variable CXX, or give compile=false"
            )
    _compiling = wanted


def kernels_run() -> int:
    """How often a compiled kernel has run in this process."""
    looked_up = _graph.cache_info()
    return looked_up.hits + looked_up.misses


def kernel(rule: Callable[..., None], apart: bool = False) -> Callable[..., None]:
    """Make a rule of one parameter, `rule(*row, *numbers, **constants)`, one of a group: the rows come in a list.

    A row holds a parameter and what else there is of it, the numbers are the same for all rows and may change from
    step to step, and the constants are not expected to: each of their values has a graph of its own.

    Args:
        apart: compile each row by itself. Of many rules with a norm Inductor would run all first loops and then all
            second ones, and what it keeps in between is another copy of the model.
    """

    def run(rows: Sequence[Row], *numbers: Number, **constants: Hashable) -> None:
        if not _compiling:
            for row in rows:
                rule(*row, *numbers, **constants)
            return
        scalars = _scalars(numbers, rows[0][0].device) if rows else []  # type: ignore[union-attr]
        for batch in [[row] for row in rows] if apart else [rows] if rows else []:
            shapes = tuple(tuple(None if t is None else (t.shape, t.dtype) for t in row) for row in batch)
            _graph(rule, shapes, tuple(sorted(constants.items())))(batch, *scalars, **constants)

    return run


def _scalars(numbers: Sequence[Number], device: torch.device) -> list[Tensor]:
    """The numbers as float64 scalars on the device, in one copy that nothing waits for."""
    on_cuda = device.type == "cuda"
    # Every other place is left empty: a kernel takes a pointer to 16 bytes as it is, and copies what lies between.
    places = [(0.0 if isinstance(x, Tensor) else x, 0.0) for x in numbers]
    table = torch.tensor(places, dtype=torch.float64, pin_memory=on_cuda).to(device, non_blocking=on_cuda)
    return [x if isinstance(x, Tensor) else place[0] for x, place in zip(numbers, table, strict=True)]


@cache
def _graph(rule: Callable[..., None], shapes: Hashable, constants: Hashable) -> Callable[..., Any]:
    """The rule over rows of these shapes, compiled when it is first called."""

    def over_rows(rows: Sequence[Row], *numbers: Tensor, **constants: Hashable) -> None:
        for row in rows:
            rule(*row, *numbers, **constants)

    # Dynamo counts graphs by code object, and gives up after eight: in a sweep over models there may be more.
    alone = FunctionType(over_rows.__code__.replace(co_name=rule.__name__), globals(), rule.__name__, None,
                         over_rows.__closure__)  # fmt: skip
    return torch.compile(alone, dynamic=False, fullgraph=True)


def average_(m: Tensor, x: Tensor, beta: Number) -> Tensor:
    """m <- beta m + (1 - beta) x."""
    if isinstance(beta, Tensor):
        return m.add_((x - m) * (1 - beta))
    return m.lerp_(x, 1 - beta)


def average_square_(v: Tensor, x: Tensor, beta: Number) -> Tensor:
    """v <- beta v + (1 - beta) x^2."""
    if isinstance(beta, Tensor):
        return v.mul_(beta).add_(x * x * (1 - beta))
    return v.mul_(beta).addcmul_(x, x, value=1 - beta)


def add_(p: Tensor, x: Tensor, factor: Number) -> Tensor:
    """p <- p + factor x."""
    if isinstance(factor, Tensor):
        return p.addcmul_(x, factor)
    return p.add_(x, alpha=factor)


def shrink_(p: Tensor, share: Number) -> Tensor:
    """p <- (1 - share) p."""
    return p.mul_(1 - share) if isinstance(share, Tensor) or share else p


def add_quotient_(p: Tensor, x: Tensor, y: Tensor, factor: Number) -> Tensor:
    """p <- p + factor x / y."""
    if isinstance(factor, Tensor):
        return p.add_(x / y * factor)
    return p.addcdiv_(x, y, value=factor)


def descend_(p: Tensor, direction: Tensor, size: Number, decay: Number) -> None:
    """p <- (1 - decay) p - size direction."""
    add_(shrink_(p, decay), direction, -size)
