"""Says of adopted runs what is odd: each sentence once, with the runs that it is about, and what stays unknown."""

from collections import Counter
from collections.abc import Sequence

from judge.readers.adoption import Adopted


def remarks(adopted: Sequence[Adopted], left: Sequence[tuple[str, str]]) -> list[str]:
    """Return remarks on the runs; the last one names what is unknown. left: runs that were left out, and why."""
    notes = [(note, each.run.name) for each in adopted for note in [*each.run.notes, *filter(None, [each.error])]]
    about: dict[str, list[str]] = {}
    for note, name in [*notes, *((f"left out, {why}", name) for name, why in left)]:
        about.setdefault(note, []).append(name)
    lines = [
        f"- {names[0] if len(names) == 1 else f'{len(names)} runs ({names[0]}, ...)'}: {note}"
        for note, names in about.items()
    ]
    unknown = Counter(key for each in adopted for key in each.manifest["origin"]["unknown"])
    listed = ", ".join(key if count == len(adopted) else f"{key} ({count} runs)" for key, count in unknown.items())
    return [*lines, f"unknown, and left so: {listed}"]
