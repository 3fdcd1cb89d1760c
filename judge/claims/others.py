"""Other people's measurements of what a claim is about, and the statements that they stand beside."""

from conventions.config_keys import plain
from conventions.quantity import TITLE
from judge.claims.claim import Claim, Other
from judge.claims.statement import Statement


def number(claim: Claim, other: Other) -> str:
    """Write `0.93 to 1.04 in steps`, `below 2 in steps`; empty without a number."""
    low, high = other.low, other.high
    ends = "" if low is None else f"above {plain(low)}" if high is None else f"{plain(low)} to {plain(high)}"
    ends = f"below {plain(high)}" if low is None and high is not None else ends
    if other.value is not None:
        ends = plain(other.value) + f" ({ends})" * bool(ends)
    return ends and f"{ends}{unit(subjects(claim, other)[0])}{'*' * other.recalled}"


def unit(statement: Statement) -> str:
    """Write the unit of a speed-up, ` in steps`; empty for other measures."""
    return f" in {TITLE[statement.axis]}" if statement.measure == "speedup" else ""


def subjects(claim: Claim, other: Other) -> list[Statement]:
    """Return the statements that a measurement is about."""
    return [statement for statement in claim.statements if other.about(statement)]


def beside(claim: Claim, statement: Statement) -> list[Other]:
    """Return the measurements of the arms that a statement compares, on any axis: their figures name it."""
    return [
        other
        for other in claim.others
        if number(claim, other) and any(each.pairs == statement.pairs for each in subjects(claim, other))
    ]
