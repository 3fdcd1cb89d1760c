"""Draws the board: every optimizer's speed-up over AdamW in steps, by size, from our runs and from those of others.

    python -m scripts.board          # docs/board.html, docs/board.svg and results/board.md; make board does the same

The page needs no network, and its table reads without a script; a script sorts and filters it. The picture is also on
top of README, and results/board.md, which has the runs of others alone, is the table under it. make tables writes and
checks all three.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from conventions import atomic
from conventions.config_keys import CONFIGS
from conventions.grid import Grid, markdown
from conventions.sentence import Arguments, one_sentence
from judge.board import BoardRow, by_speedup, own_rows, public_rows
from judge.estimate import Speedup
from judge.public.study import list_studies
from scripts.pages.canvas import INK
from scripts.report import template

ROOT = CONFIGS.parent
ENDS = (0.45, 2.2)  # speed-ups at the ends of the picture's axis
LEFT, WIDE = 176, 216  # where the axis begins, and how long it is
STEP, GAP = 13, 5  # the height of a row, and what parts two optimizers


def main(arguments: Sequence[str] | None = None) -> None:
    Arguments.of("scripts.board", __doc__, whole=True).parse_args(arguments)
    with one_sentence():
        for path, text in board_texts(ROOT).items():
            atomic.write_text(path, text)
            print(path.relative_to(ROOT))


def board_texts(root: Path) -> dict[Path, str]:
    """Return the page, the picture and the table in Markdown, by their paths."""
    theirs, ours = public_rows(), own_rows(root / "results")
    picture = draw(theirs, ours)
    studies = {study.name: study for study in list_studies()}
    page = template("board.html").render(
        picture=Markup(picture),
        rows=[*_ordered(theirs), *_ordered(ours)],
        studies=studies,
        small=small,
    )
    return {
        root / "docs" / "board.html": page + "\n",
        root / "docs" / "board.svg": picture + "\n",
        root / "results" / "board.md": table(theirs),
    }


def table(theirs: Sequence[BoardRow]) -> str:
    """Return the Markdown lines of the table under the picture: a line for each optimizer, a column for each size."""
    pictured = [row for row in theirs if row.pictured]
    sizes = list(dict.fromkeys(row.size for row in sorted(pictured, key=lambda row: row.parameters)))
    rows = []
    for study in dict.fromkeys(row.study for row in pictured):
        for name, lines in by_speedup([row for row in pictured if row.study == study]):
            cells = ("; ".join(_cell(row) for row in lines if row.size == size) for size in sizes)
            rows.append([name, study, *cells])
    return markdown(Grid("", ["optimizer", "runs of", *sizes], rows)) + "\n"


def _ordered(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Return the rows as the picture has them, study by study."""
    groups = [[row for row in rows if row.study == name or row.ours] for name in dict.fromkeys(r.study for r in rows)]
    return [row for own in (groups[:1] if rows[0].ours else groups) for _, lines in by_speedup(own) for row in lines]


def _cell(row: BoardRow) -> str:
    value = "" if row.speedup.value is None else str(row.speedup)
    return f"{value} ({row.speedup.interval})".strip() if row.speedup.interval else value


def draw(theirs: Sequence[BoardRow], ours: Sequence[BoardRow]) -> str:
    """Draw an interval and a mark for each pictured row, in a block for each study of others, and one for ours.

    Colour and mark tell the sizes of one block apart; each row also names its size, and ours the claim of their study.
    """
    blocks: list[dict[str, Any]] = []
    rows, top = [row for row in theirs if row.pictured], 6.0
    groups = {name: [row for row in rows if row.study == name] for name in dict.fromkeys(row.study for row in rows)}
    titles = {study.name: study.title for study in list_studies()}
    titles[""] = "Our own runs: less than 1M parameters, on a CPU"
    for key, own in [*groups.items(), ("", list(ours))]:
        beware = own[0].beware if key else ""
        sizes = list(dict.fromkeys(row.size for row in sorted(own, key=lambda row: row.parameters)))
        block: dict[str, Any] = {"title": titles[key], "beware": beware, "y": top, "names": []}
        top += 28 if beware else 16
        block["begin"] = top
        for name, lines in by_speedup(own):
            marks = []
            for row in lines:
                kind = sizes.index(row.size)
                look = {"kind": kind, "color": INK[kind % len(INK)]}
                marks.append({"y": top + STEP / 2, **look, "row": row, **span(row.speedup)})
                top += STEP
            block["names"].append({"name": name, "y": marks[0]["y"], "marks": marks, "end": top + GAP / 2})
            top += GAP
        blocks.append({**block, "end": top})
        top += 24
    ticks = [(x_of(value), f"{value:g}") for value in (0.5, 0.7, 1, 1.4, 2)]
    return template("board.svg").render(blocks=blocks, ticks=ticks, height=round(top))


def span(speedup: Speedup) -> dict[str, Any]:
    """Return where a row's interval and mark lie: `solid` from end to end, `dashed` where it runs beyond the ladder."""
    low, high = (x_of(end) if end is not None else None for end in (speedup.low, speedup.high))
    middle = None if speedup.value is None or speedup.censored else x_of(speedup.value)
    inner = [x for x in (low, middle, high) if x is not None] or [x_of(1)]
    dashed = [(x_of(ENDS[0]), inner[0])] * (low is None) + [(x_of(ENDS[1]), inner[-1])] * (high is None)
    text = str(speedup) if speedup.value is not None else speedup.interval
    return {"solid": (inner[0], inner[-1]), "dashed": dashed, "x": middle, "text": text}


def small(speedup: Speedup) -> Markup:
    """Draw a row's interval and mark for a line of the page's table."""
    own = span(speedup)
    lines = [f'<path d="M{_at(own["solid"][0])} 7H{_at(own["solid"][1])}"/>']
    lines += [f'<path class="beyond" d="M{_at(far)} 7H{_at(near)}"/>' for far, near in own["dashed"]]
    lines += [f'<circle cx="{_at(own["x"])}" cy="7" r="3.2"/>'] if own["x"] is not None else []
    one = f'<path class="one" d="M{_at(x_of(1))} 0V14"/>'
    return Markup(f'<svg class="bar" viewBox="0 0 120 14" aria-hidden="true">{one}{"".join(lines)}</svg>')


def _at(x: float) -> float:
    return round((x - LEFT) / WIDE * 120, 1)


def x_of(speedup: float) -> float:
    """Return the place of a speed-up on the axis, on a log scale."""
    share = math.log(min(max(speedup, ENDS[0]), ENDS[1]) / ENDS[0]) / math.log(ENDS[1] / ENDS[0])
    return round(LEFT + WIDE * share, 1)


if __name__ == "__main__":
    main()
