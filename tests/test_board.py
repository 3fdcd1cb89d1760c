"""The board: its rows, its picture, its page without a script, and the committed files."""

import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from html.parser import HTMLParser

import pytest

from conventions.config_keys import CONFIGS
from judge.board import by_speedup, own_rows, public_rows
from judge.estimate import Speedup
from scripts.board import ENDS, LEFT, WIDE, board_texts, span, x_of

ROOT = CONFIGS.parent
theirs = cache(public_rows)


@cache
def ours():
    return own_rows(ROOT / "results")


@pytest.fixture(scope="module")
def texts():
    return {path.name: text for path, text in board_texts(ROOT).items()}


class Page(HTMLParser):
    """The ids, links and cells of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.lines, self.outside = [], [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.ids += [own["id"]] if "id" in own else []
        self.links += [own["href"]] if "href" in own else []
        self.lines += tag == "tr" and "data-whose" in own
        self.outside += [own[key] for key in ("src", "srcset") if key in own] + [own.get("href")] * (tag == "link")


def test_the_committed_board_is_what_the_runs_say(texts):
    assert texts["board.html"] == (ROOT / "docs/board.html").read_text()
    assert texts["board.svg"] == (ROOT / "docs/board.svg").read_text()
    assert texts["board.md"] == (ROOT / "results/board.md").read_text()


def test_runs_of_others_and_ours_are_apart():
    assert {row.ours for row in theirs()} == {False}
    assert {row.ours for row in ours()} == {True}
    assert {row.size for row in theirs()} >= {"124M", "130M", "300M", "520M", "1.2B"}
    assert all(row.parameters < 1e6 for row in ours())
    assert all(row.speedup.interval for row in ours())  # a race is no number
    assert {row.rule for row in theirs()} == {"matched", "isoloss"}


def test_runs_that_are_not_published_are_not_ours_yet(tmp_path):
    study = "wen2025-tiny-llama_pico"
    for place in ("runs", "demo", "verdicts"):
        (tmp_path / place).mkdir()
        (tmp_path / place / study).symlink_to(ROOT / "results" / study)
    assert own_rows(tmp_path) == []
    (tmp_path / study).symlink_to(ROOT / "results" / study)
    assert {row.optimizer for row in own_rows(tmp_path)} == {"soap", "muon", "lion"}


def test_a_number_of_several_budgets_is_linked_to_the_folder_of_all_of_them():
    [soap] = [row for row in theirs() if (row.optimizer, row.size) == ("SOAP", "130M")]
    [sophia] = [row for row in theirs() if (row.optimizer, row.size) == ("Sophia-H", "300M")]
    assert soap.at == "1, 2, 4, 8 x Chinchilla"
    assert re.search(r"/tree/.*/soape/130m$", soap.address)
    assert re.search(r"/blob/.*/sophia/300m/1/result\.json$", sophia.address)


def test_every_number_has_its_source_its_rule_and_its_command(texts):
    page = Page(texts["board.html"])
    rows = [*theirs(), *ours()]
    assert page.lines == len(rows)
    for row in rows:
        assert row.address in page.links
        assert f"rule-{row.rule}" in page.ids
        assert row.command in texts["board.html"]
        if row.ours:
            assert (ROOT / "docs" / row.address).resolve().is_dir()
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    files = [link for link in page.links if not link.startswith(("#", "https://"))]
    assert all((ROOT / "docs" / link).resolve().exists() for link in files)


def test_the_page_needs_no_other_file_and_no_script(texts):
    assert Page(texts["board.html"]).outside == []
    bare = re.sub(r"<script>.*?</script>", "", texts["board.html"], flags=re.DOTALL)
    assert '<form class="controls" hidden>' in bare  # what only a script can serve is not there without it
    assert bare.count("<tr data-whose") == Page(texts["board.html"]).lines


def test_the_picture_is_one_drawing_with_a_mark_for_each_size(texts):
    drawing = ElementTree.fromstring(texts["board.svg"])
    words = " ".join(drawing.itertext())
    pictured = [row for row in theirs() if row.pictured]
    assert all(row.size in words for row in pictured)
    assert all(row.optimizer in words or row.optimizer[:25] in words for row in pictured)
    assert "undertuned" in words


def test_every_text_of_the_picture_ends_inside_it(texts):
    drawing = ElementTree.fromstring(texts["board.svg"])
    wide = float(drawing.get("viewBox").split()[2])
    begin = [each for each in drawing.iter("{http://www.w3.org/2000/svg}text") if each.get("text-anchor") is None]
    for each in begin:
        size = float(each.get("font-size", drawing.get("font-size")))
        assert float(each.get("x")) + 0.56 * size * len("".join(each.itertext())) <= wide  # a letter is about .56 of it
    assert len(begin) > 40


def test_intervals_lie_where_their_numbers_are():
    assert x_of(ENDS[0]) == LEFT
    assert x_of(ENDS[1]) == LEFT + WIDE
    assert x_of(10) == LEFT + WIDE
    closed = span(Speedup(1.2, 1.1, 1.3))
    assert closed["solid"] == (x_of(1.1), x_of(1.3))
    assert closed["dashed"] == []
    opened = span(Speedup(1.2, None, 1.3))
    assert opened["solid"] == (x_of(1.2), x_of(1.3))
    assert opened["dashed"] == [(LEFT, x_of(1.2))]
    beyond = span(Speedup(2.0, 1.7, None, "above"))
    assert beyond["x"] is None
    assert beyond["text"] == ">2"


def test_the_fastest_at_its_largest_size_comes_first():
    names = [name for name, _ in by_speedup([row for row in theirs() if row.study == "wen2025"])]
    assert names.index("Muon") < names.index("SOAP") < names.index("Sophia-H")
