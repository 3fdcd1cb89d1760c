"""Update rules of one parameter are run here over all parameters of a group, operation by operation or compiled.

Operation by operation, a rule streams its tensors through memory a dozen times; compiled (torch.compile), the loops
over a parameter become one, or two where a norm stands between them, and a whole group is one call. A rule is written
once for both, with the numbers it takes as floats or, compiled, as scalar tensors: Dynamo would make a graph for every
learning rate, and what it does with a float that changes is wrong in torch 2.13 (`add_(x, alpha=lr)` keeps an old lr).
What a rule does with such scalars the compiled loop does again for every few entries: it takes the numbers ready, a
share 1 - beta and not beta (which would lose digits besides), a factor and not a divisor.
"""

import shutil
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .base import state_dtype

Number = float | Tensor
Row = tuple[Tensor | None, ...]

_compiling = False


def compile_kernels(wanted: bool | None) -> None:
    """Choose whether rules run compiled from now on, in this process; the results differ by rounding alone.

    Classes of other packages that compile themselves follow: on a CPU they may compile for minutes, a kernel for each
    shape. None: rules run uncompiled, and such classes do as they like, as when the process began.

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
    _compiling = bool(wanted)
    if "torch._dynamo" in sys.modules:  # else nobody has compiled anything yet, and its import takes seconds
        torch.compiler.set_stance("force_eager" if wanted is False else "default")


def kernels_run() -> int:
    """Return how many times a compiled kernel has run in this process."""
    looked_up = _graph.cache_info()
    return looked_up.hits + looked_up.misses


def kernel(rule: Callable[..., None], apart: bool = False, **options: Any) -> Callable[..., None]:
    """Make a rule of one parameter, `rule(*row, *numbers, **constants)`, one of a group: the rows come in a list.

    A row holds a parameter and what else there is of it, the numbers are the same for all rows and may change from
    step to step, and the constants are not expected to: each of their values has a graph of its own.

    Args:
        apart: compile each matrix by itself. Of many rules with a norm Inductor would run all first loops and then all
            second ones, and what it keeps in between is another copy of the model. A call takes some .05 ms, so that
            vectors, which are small, stay together.
        options: of torch.compile.
    """

    def run(rows: Sequence[Row], *numbers: Number, **constants: Hashable) -> None:
        if not _compiling:
            for row in rows:
                rule(*row, *numbers, **constants)
            return
        alone = [[row] for row in rows if apart and row[0].ndim >= 2]  # type: ignore[union-attr]
        together = [row for row in rows if not apart or row[0].ndim < 2]  # type: ignore[union-attr]
        scalars = _scalars(numbers, rows[0][0]) if rows else []  # type: ignore[arg-type]
        for batch in [*alone, together] if together else alone:
            # All tensors of a row have the parameter's shape, and the last may be absent: to look at each takes as long
            # as a tenth of the loops.
            shapes = tuple([(row[0].shape, row[0].dtype, row[-1] is None) for row in batch])  # type: ignore[union-attr]
            _graph(rule, shapes, tuple(sorted(constants.items())), tuple(options.items()))(batch, *scalars, **constants)

    return run


def _scalars(numbers: Sequence[Number], p: Tensor) -> list[Tensor]:
    """Make the numbers scalars of the state's dtype on p's device, in one copy that nothing waits for."""
    # A kernel takes a pointer to a multiple of 16 bytes as it is, and copies what lies between.
    places = [(0.0 if isinstance(x, Tensor) else x, 0.0, 0.0, 0.0) for x in numbers]
    table = torch.tensor(places, dtype=state_dtype(p), pin_memory=p.is_cuda).to(p.device, non_blocking=p.is_cuda)
    return [x if isinstance(x, Tensor) else place[0] for x, place in zip(numbers, table, strict=True)]


@cache
def _graph(
    rule: Callable[..., None], shapes: Hashable, constants: Hashable, options: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    """Return the rule over rows of these shapes, which its first call compiles."""

    def over_rows(rows: Sequence[Row], *numbers: Tensor, **constants: Hashable) -> None:
        for row in rows:
            rule(*row, *numbers, **constants)

    # Dynamo counts graphs by code object, and gives up after eight: in a sweep over models there may be more.
    alone = FunctionType(over_rows.__code__.replace(co_name=rule.__name__), globals(), rule.__name__, None,
                         over_rows.__closure__)  # fmt: skip
    return torch.compile(alone, dynamic=False, fullgraph=True, options=dict(options))


def average_(m: Tensor, x: Tensor, share: Number) -> Tensor:
    """m <- (1 - share) m + share x."""
    if isinstance(share, Tensor):
        return m.add_((x - m) * share)
    return m.lerp_(x, share)


def average_square_(v: Tensor, x: Tensor, share: Number) -> Tensor:
    """v <- (1 - share) v + share x^2."""
    if isinstance(share, Tensor):
        return v.add_((x * x - v) * share)
    return v.mul_(1 - share).addcmul_(x, x, value=share)


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
