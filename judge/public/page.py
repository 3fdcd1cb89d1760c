"""Writes the page of a public study in Markdown: what it is, its figures and its tables."""

from collections.abc import Mapping, Sequence

from conventions.grid import Grid, markdown
from judge.public.study import PublicStudy
from judge.public.tables import notes, study_tables


def study_page(study: PublicStudy, figures: Mapping[str, str]) -> str:
    """Return results/public/<name>.md. figures: the files beside it that it shows, with their titles."""
    made = f"`{study.command}` collects {study.name}.csv, `make tables` writes this page."
    head = [study.title, made, "\n".join(f"- {note}" for note in notes(study))]
    return page([*head, *(f"![{title}]({name})" for name, title in figures.items())], study_tables(study))


def page(head: Sequence[str], grids: Sequence[Grid]) -> str:
    """Return a page of Markdown: paragraphs, then tables under their titles."""
    return "\n\n".join([*head, *(f"{grid.title}\n\n{markdown(grid)}" for grid in grids)]) + "\n"
