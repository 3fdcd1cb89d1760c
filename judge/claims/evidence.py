"""Evidence on a claim from runs that others published: a study of results/public, two arms, and what it can say."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from conventions.sentence import nearest
from judge.claims.statement import Statement
from judge.declared import Declared, Sigma
from judge.estimate import Speedup
from judge.public.cell import Cell, Choice
from judge.public.study import PublicStudy, read_study
from judge.scale import Figure, figures

PUBLIC = "public"  # stands for a scale where a claim is verified by such evidence


@dataclass(frozen=True)
class Evidence:
    """Two arms of a public study that are held against statements of a claim."""

    study: str  # of configs/public
    arm: str
    against: str
    may_say: str  # what a verdict of these runs can mean and what it cannot
    beside: str = "*"  # a pattern of what statements say: those that it is held against; speed-ups in steps only
    sizes: str = "*"  # a pattern: each size of the study that it fits is a part with a verdict of its own
    rule: Literal["matched", "isoloss"] | None = None  # null: the study's
    losses: Choice | None = None  # null: the study's
    sigma: Sigma | None = None  # null: the study's
    papers_own: bool = False  # whether these are the runs that the claim was made of, so that they may refute it

    def about(self, statement: Statement) -> bool:
        plain = statement.measure == "speedup" and statement.axis == "steps" and not statement.than
        return plain and fnmatch.fnmatchcase(statement.says, self.beside)

    def declared(self, study: PublicStudy) -> Declared:
        return Declared(self.sigma or study.sigma, study.slope is not None, study.slope)

    def problems(self, statements: Sequence[Statement]) -> Iterator[str]:
        """Yield sentences on what is wrong with it. Raises ValueError if the study cannot be read."""
        if not any(self.about(each) for each in statements):
            says = [each.says for each in statements if each.measure == "speedup" and each.axis == "steps"]
            yield f"beside {self.beside!r} is like no statement on a speed-up in steps: {nearest(self.beside, says)}"
        cells = read_study(self.study).cells
        for key in ("arm", "against"):
            own = [cell for cell in cells if cell.arm == getattr(self, key)]
            if not own:
                yield f"{key} {getattr(self, key)!r} is no arm: {nearest(getattr(self, key), {c.arm for c in cells})}"
            elif not any(fnmatch.fnmatchcase(cell.size, self.sizes) for cell in own):
                there = nearest(self.sizes, {cell.size for cell in own})
                yield f"sizes {self.sizes!r} is like no size of {own[0].arm}: {there}"

    def figures(self, study: PublicStudy) -> dict[str, list[Figure]]:
        """Return the speed-up in each cell by size, the smallest first: of the cells with room above them, if any."""
        choice = self.losses or study.losses
        compared = [chosen for cell in study.cells if cell.arm in (self.arm, self.against)
                    if (chosen := cell.by(choice)) and fnmatch.fnmatchcase(cell.size, self.sizes)]  # fmt: skip
        by_size: dict[str, list[Figure]] = {}
        for each in figures(sorted(compared, key=_place), self.against, self.declared(study), self.rule or study.rule):
            by_size.setdefault(each.cell.size, []).append(each)
        return {size: [each for each in own if each.room] or own for size, own in by_size.items()}


class Shown(NamedTuple):
    """A cell of a part, and its speed-up; the baseline's cells have none."""

    part: str
    cell: Cell
    speedup: Speedup | None


def _place(cell: Cell) -> tuple[float, int]:
    return cell.parameters, cell.tokens
