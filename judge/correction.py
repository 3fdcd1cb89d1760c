"""The correction of verdicts for the number of comparisons on one page.

Of twelve newcomers that are all as good as the baseline, each with an interval of 95 %, one or more are called faster
or slower by chance on up to 1 - .95^12 = 46 % of the pages. Holm (1979) keeps that at 5 %: with m comparisons the
verdicts that hold at 1 - .05 / m stay; if r do, the others are held against 1 - .05 / (m - r), and so on.

A newcomer that is the best of k settings, of more than the baseline tried, makes k comparisons by itself. Unless its
verdict holds at 1 - .05 / k, it is none. That is for chance alone. A better setting also is one, and no interval knows
how much better the other optimizer's best would be: whoever tried more than twice as many settings, or was tuned on
more than twice as many trials, gets no verdict in his favour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from judge.row import Row, noted
from judge.spread import CONFIDENCE

Judged = Callable[[str, float], Sequence[Row]]  # the rows of an arm, by its label, at a confidence
DIFFERS = ("faster", "slower")
UNEQUAL = 2  # times as many settings or trials as the other's, and no verdict is in one's favour any more

Settings = Mapping[str, tuple[int, int]]  # by an arm's label: what it is the best of, and what the baseline is


def corrected(rows: Sequence[Row], settings: Settings, at: Judged) -> list[Row]:
    """Return the rows of one rule, each with whether its verdict survives; those of too many settings have none."""
    own = {arm: _own_comparisons(settings, arm) for arm in settings}
    judged = [_chosen(fair(row, *settings[row.arm]), own[row.arm], at) for row in rows]
    for axis in dict.fromkeys(row.axis for row in rows):
        left = {row.arm: own[row.arm] for row in rows if row.axis == axis and row.speedup.interval}
        count, survived = sum(left.values()), set[str]()
        while left and (firm := {arm for arm in left if _differs(at, arm, axis, sum(left.values()))}):
            survived |= firm
            left = {arm: own for arm, own in left.items() if arm not in firm}
        if count > 1:
            judged = [replace(row, survives=row.arm in survived) if _own(row, axis) else row for row in judged]
    return judged


def fair(row: Row, ours: int, theirs: int, what: str = "settings") -> Row:
    """Return the row without a verdict for whoever is the best of more than twice as many settings, or trials."""
    favoured = DIFFERS[0] if ours > UNEQUAL * max(1, theirs) else DIFFERS[1] if theirs > UNEQUAL * max(1, ours) else ""
    if not favoured or not (row.verdict or "").startswith(favoured):
        return row
    who = f"{row.arm} is the best of {ours:,} {what}, the baseline of {theirs:,}"
    return replace(
        noted(row, f"{who}: no verdict for whoever had more than twice as many"), verdict="underpowered", survives=None
    )


def comparisons(rows: Sequence[Row], settings: Settings) -> str | None:
    """Return a sentence on how many comparisons a page makes and which verdicts stand; None if it makes one."""
    count = sum(_own_comparisons(settings, arm) for arm in {row.arm for row in rows if row.speedup.interval})
    if count < 2:
        return None
    chance = 100 * (1 - CONFIDENCE**count)
    lost = any(row.survives is False for row in rows)
    tail = "† marks a verdict that does not survive" if lost else "every verdict of faster or slower survives"
    return (
        f"{count} comparisons by the rule {rows[0].rule} stand on this page: were all of them ties, chance alone would "
        f"call some faster or slower on up to {chance:.0f} % of such pages; {tail} Holm's correction for them"
    )


def _own_comparisons(settings: Settings, arm: str) -> int:
    ours, theirs = settings[arm]
    return ours if ours > theirs else 1


def _own(row: Row, axis: str) -> bool:
    return row.axis == axis and (row.verdict or "").startswith(DIFFERS)


def _differs(at: Judged, arm: str, axis: str, count: int) -> bool:
    """Return whether an arm's verdict on an axis says faster or slower at the confidence of so many comparisons."""
    return any(_own(row, axis) for row in at(arm, 1 - (1 - CONFIDENCE) / count))


def _chosen(row: Row, count: int, at: Judged) -> Row:
    """Return the row without its verdict where that does not outlast the choice from so many settings."""
    if count == 1 or not _own(row, row.axis) or _differs(at, row.arm, row.axis, count):
        return row
    why = f"{row.arm} is the best of {count} settings, more than the baseline's: that alone may make it {row.verdict}"
    return replace(noted(row, why), verdict="underpowered")
