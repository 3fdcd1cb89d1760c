"""The two tables of a comparison, for the terminal and for Markdown: the standings, and the speed-ups."""

from conventions.grid import Grid
from conventions.quantity import AXIS, TITLE, loss
from judge import race
from judge.comparison import Comparison, Standing
from judge.row import Row


def telling(comparison: Comparison) -> dict[tuple[str, str], list[Row]]:
    """Return the rows by arm and rule, an axis each, of rules that give a number or a verdict on any axis."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        rows.setdefault((row.arm, row.rule), []).append(row)
    return {key: own for key, own in rows.items() if any(row.speedup.known or row.verdict for row in own)}


def standings_grid(comparison: Comparison, ratios: bool = False) -> Grid:
    """Make a line for each optimizer, in a race by places: its final loss, and what it cost to reach the target.

    ratios: with the speed-up that each cost is, `412 (1.21x)`.
    """
    racing = race.is_race(comparison)
    places = race.places(comparison) if racing else []
    length = f" after {comparison.length:,} updates" if comparison.length else ""
    aim = f", and what {comparison.target:.4f} cost{' (speed-up)' * ratios}" if comparison.target is not None else ""
    rows = []
    for each in [*places, *(each for each in comparison.standings if each not in places)]:
        end = loss(each.loss, each.spread) + comparison.after(each)
        rows.append([each.arm.label, str(each.tried), str(each.seeds), end, *_costs(each, ratios)])
    header = ["optimizer", "settings tried", "seeds", "final loss", *TITLE.values()]
    return Grid(f"{'A race: v' if racing else 'V'}alidation loss{length}{aim}.", header, rows)


def speedups_grid(comparison: Comparison, lines: bool = False) -> Grid:
    """Make a line for each newcomer and rule that says something, with its verdict in the words of `Row.words`.

    lines: of a cell, one for the number, one for its interval and one for the verdict; newcomers are set apart, and a
    last column has the fewest seeds at any length that entered.
    """
    rows: list[list[str]] = []
    above = ""
    for (arm, rule), own in telling(comparison).items():
        if lines and above and arm != above:
            rows.append([])
        cells = ["\n".join(_parts(row)) if lines else f"{row.speedup.figure} {row.words}".strip() for row in own]
        rows.append(["" if lines and arm == above else arm, rule, *cells, *([str(own[0].seeds)] if lines else [])])
        above = arm
    title = f"Speed-up over {comparison.standings[0].arm.label}, with 95 % intervals."
    return Grid(title, ["optimizer", "rule", *TITLE.values(), *(["seeds"] if lines else [])], rows)


def _costs(standing: Standing, ratios: bool) -> list[str]:
    """Write an arm's cost on each axis; an arm that never got there took more than its whole run."""
    costs = [text(getattr(standing.reached, axis)) if standing.reached else "never" for axis, text in AXIS.items()]
    known = [standing.rows[axis].speedup if axis in standing.rows else None for axis in AXIS]
    shown = [f" ({each}x)" if ratios and each and each.known else "" for each in known]
    return [cost + ratio for cost, ratio in zip(costs, shown, strict=True)]


def _parts(row: Row) -> list[str]:
    number = [str(row.speedup)] if row.speedup.value is not None or not row.speedup.interval else []
    return [*number, *(part for part in (row.speedup.interval, row.words) if part)]
