"""An optimizer's implementations in turns, each turn right after one of fused AdamW's."""

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from optimizers import OptimizerInfo
from optimizers.kernels import kernels_called
from scripts.bench.floor import ADAMW_BYTES, Work, floor, product_rate, work
from scripts.bench.references import Reference
from scripts.bench.stand import Contender, Shape, Stand, Turn, fused_adamw, ours
from scripts.bench.timing import spread

Row = dict[str, Any]


class Measured(NamedTuple):
    """So far. failures: optimizer, implementation and error of each that does not run; what it measured is kept."""

    rows: list[Row]
    failures: list[Row]


@dataclass
class Timed:
    """units: seconds of a step of fused AdamW's, just before each of the turns."""

    contender: Contender
    units: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def turn(self, baseline: Contender) -> None:
        unit = statistics.median(baseline.turn().seconds)
        self.turns.append(self.contender.turn())
        self.units.append(unit)


def measure(
    info: OptimizerInfo, keywords: dict[str, Any], shape: Shape, place: str, compiled: bool,
    references: Sequence[tuple[Reference, Path | None]], rounds: int,
) -> Iterator[Measured]:  # fmt: skip
    """A row for each implementation, anew after every turn.

    Each has its first turn before the next is built, ours first, which has to run: of what another takes too long for,
    does not fit beside, or breaks, nothing is lost but its own.
    """
    base = Stand(shape, place)
    baseline, timed, failures = fused_adamw(base), list[Timed](), list[Row]()
    baseline.turn()  # warm up: state
    calls = kernels_called()
    timed.append(Timed(own := ours(info, keywords, Stand(shape, place, base.pool), base)))
    own.turn()  # warm up: state, first bases
    least = work(info, own.keeps[0], own.stand.model)
    rates = {precision: product_rate(place, precision) for precision in least.flops} if least else {}

    def found() -> Measured:
        rows = [_row(each, info.name, keywords, base, least, rates) for each in timed if each.turns]
        return Measured(rows, failures)

    def fail(name: str, error: Exception) -> None:
        words = next(iter(str(error).strip().splitlines()), "")
        failures.append({"optimizer": info.name, "implementation": name, "error": f"{type(error).__name__}: {words}"})

    timed[0].turn(baseline)
    yield found()
    others: list[tuple[str, Callable[[], Contender]]] = []
    if compiled and kernels_called() > calls:
        others.append(((twin := own.twin()).name, lambda: twin))
    others += [(reference.name, partial(_built, reference, source, shape, base, keywords))
               for reference, source in references]  # fmt: skip
    for name, make in others:
        try:
            one = Timed(make())
            one.contender.turn()
            one.turn(baseline)
            timed.append(one)
        except Exception as error:  # others' code, on a machine that they have not seen
            fail(name, error)
        one = None  # type: ignore[assignment]  # the others want its memory
        _free()
        yield found()
    able = list(timed)
    for _ in range(rounds - 1):
        for each in list(able):
            try:
                each.turn(baseline)
            except Exception as error:
                fail(each.contender.name, error)
                able.remove(each)
            yield found()
    for stand in {id(each.contender.stand): each.contender.stand for each in timed}.values():
        stand.clock.close()
    base.clock.close()


def _built(reference: Reference, source: Path | None, shape: Shape, base: Stand, keywords: dict[str, Any]) -> Contender:
    return reference.build(Stand(shape, base.device, base.pool), base, keywords, source)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _row(
    timed: Timed, optimizer: str, keywords: dict[str, Any], base: Stand, least: Work | None, rates: dict[str, float]
) -> Row:
    bytes_moved = ADAMW_BYTES * sum(p.numel() for p in base.params)
    row = summary(timed.contender, timed.turns, timed.units, optimizer, keywords)
    return {**row, **floor(least, bytes_moved / statistics.median(timed.units), rates)}


def summary(
    contender: Contender, turns: Sequence[Turn], units: Sequence[float], optimizer: str, keywords: dict[str, Any]
) -> Row:
    """What the turns say of an implementation.

    Args:
        turns: one per round.
        units: seconds of a step of fused AdamW, just before each.

    Returns:
        worst_over_mean is of typical steps; worst_ms is the slowest single one, median_ms the median of them all.
    """
    period = contender.period
    phases: list[list[float]] = [[] for _ in range(period)]  # the steps that do the same thing
    amortised = []  # of each round
    for turn in turns:
        mine: list[list[float]] = [[] for _ in range(period)]
        for n, value in enumerate(turn.seconds, turn.first):
            mine[n % period].append(value)
        amortised.append(statistics.mean(map(statistics.median, mine)))
        for phase, values in zip(phases, mine, strict=True):
            phase += values
    typical = [1e3 * statistics.median(values) for values in phases]
    plain = [ms for n, ms in enumerate(typical) if not contender.refreshes(n)]
    refresh = [ms for n, ms in enumerate(typical) if contender.refreshes(n)]
    mean = statistics.mean(typical)
    singles = [value for turn in turns for value in turn.seconds]
    hooks = [turn.hooks for turn in turns if turn.hooks is not None]
    return {
        "optimizer": optimizer,
        "implementation": contender.name,
        "compiled": contender.compiled,
        "keywords": keywords,
        "period": period,
        "plain_ms": statistics.median(plain) if plain else None,
        "refresh_ms": statistics.mean(refresh) if refresh else None,
        "amortised_ms": mean,
        "ratio": spread([a / b for a, b in zip(amortised, units, strict=True)]),
        "worst_over_mean": max(typical) / mean,
        "worst_ms": 1e3 * max(singles),
        "median_ms": 1e3 * statistics.median(singles),
        "rounds": len(turns),
        "fused_adamw_ms": 1e3 * statistics.median(units),
        "state_bytes_per_parameter": contender.state_bytes_per_parameter(),
        "hooks_ms_per_step": 1e3 * statistics.median(hooks) if hooks else None,
    }
