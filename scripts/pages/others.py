"""What others measured of the same thing, as a table beside a claim's own."""

from conventions.config_keys import plain
from conventions.quantity import TITLE
from judge.claims.claim import Claim, Other, Statement
from scripts.pages.grid import Grid


def others_grid(claim: Claim) -> Grid:
    """A line for each of their findings; none where the claim's file knows of none."""
    header = ["what others measured", "where", "figure", "source"]
    return Grid("What others measured", header, [[o.says, o.where, number(claim, o), o.source] for o in claim.others])


def others_lines(claim: Claim) -> list[str]:
    """The same in words, a sentence or two on each."""
    found = []
    for other in claim.others:
        about = ", ".join(filter(None, (other.source, other.where)))
        numbered = number(claim, other)
        found.append(f"{about}: {f'{numbered}. ' if numbered else ''}{other.says}")
    return found


def number(claim: Claim, other: Other) -> str:
    """`0.93 to 1.04 in steps`, `below 2 in steps`; empty without a number."""
    low, high = other.low, other.high
    ends = "" if low is None else f"above {plain(low)}" if high is None else f"{plain(low)} to {plain(high)}"
    ends = f"below {plain(high)}" if low is None and high is not None else ends
    if other.value is not None:
        ends = plain(other.value) + f" ({ends})" * bool(ends)
    return ends and f"{ends}{unit(subjects(claim, other)[0])}{'*' * other.recalled}"


def unit(statement: Statement) -> str:
    """` in steps`, of a speed-up."""
    return f" in {TITLE[statement.axis]}" if statement.measure == "speedup" else ""


def subjects(claim: Claim, other: Other) -> list[Statement]:
    """The statements that it is about."""
    return [statement for statement in claim.statements if other.about(statement)]


def beside(claim: Claim, statement: Statement) -> list[Other]:
    """Return the measurements of the arms that a statement compares, on any axis: their figures name it."""
    return [
        other
        for other in claim.others
        if number(claim, other) and any(each.pairs == statement.pairs for each in subjects(claim, other))
    ]
