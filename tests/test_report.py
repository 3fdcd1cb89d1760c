"""The report: its numbers are the computed ones, it fetches nothing, and it says what was lost."""

import re
from html.parser import HTMLParser

import pytest

from conventions import quantity
from judge.comparison import compare
from judge.records import find_runs
from judge.tuning.search import Range
from judge.tuning.trials import write_plan
from scripts.report import LARGEST, main, render
from tests.refusal import refusal
from tests.study import write_run, write_study

VOID = {"meta", "br", "path", "rect", "use", "line", "circle", "link", "img", "input"}


class Page(HTMLParser):
    """Tables as lists of rows of cell texts, by id; all text; every attribute."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self._table: list[list[str]] | None = None
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes)["id"], [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closed out of turn"
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.text.append(data)
        if self._table and self._table[-1] and {"td", "th"} & set(self.open):
            self._table[-1][-1] += data.strip() + " "


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(
        tmp_path_factory.mktemp("report") / "study", {"soap": 1.3, "muon": 3.0, "lion": 0.8}, noise=0.002
    )
    for rate in (3e-4, 3e-3):
        for seed in range(3):
            write_run(folder, "soap", 2000, seed, 1.1, noise=0.002, config={"optimizer.lr": rate})
    write_run(folder, "soap", 2000, 0, until=200, status="diverged", config={"optimizer.lr": 0.1})
    write_run(folder, "sophia_g", 2000, 0, until=0, status="failed", manifest={"error": "<script>alert(1)</script>"})
    return folder


@pytest.fixture(scope="module")
def source(study):
    return render(compare(find_runs(study), "adamw"))


@pytest.fixture
def one_scale(monkeypatch):
    """Six figures fewer to draw, where a test is about something else."""
    monkeypatch.setattr("scripts.pages.figures.SCALES", {"linear": ("linear", "linear")})


def test_the_numbers_are_the_computed_ones(study, source):
    comparison = compare(find_runs(study), "adamw")
    page = Page(source)
    header, *lines = page.tables["standings"]
    assert header[2].strip() == f"steps to {comparison.target:.4f}"
    assert len(lines) == len(comparison.standings)
    for line, standing in zip(lines, comparison.standings, strict=True):
        assert line[0].strip() == standing.arm.label
        if standing.loss is not None:
            assert line[1].startswith(f"{standing.loss:.4f} ± {standing.spread:.4f}")
        if standing.reached:
            assert line[2].split()[0] == f"{standing.reached.steps:,.0f}"
            assert line[3].split()[0] == quantity.flops(standing.reached.flops)
            assert line[4].startswith(quantity.seconds(standing.reached.seconds))
        for cell, row in zip(line[2:], standing.rows.values(), strict=False):
            assert f"{row.speedup}x" in cell or not row.speedup.known
    matched = {(row.arm, row.axis): row for row in comparison.rows if row.rule == "matched"}
    _, *lines = page.tables["speedups"]
    assert {line[0].strip() for line in lines} == {"soap lr=0.001", "muon", "lion"}
    for line in lines:
        for cell, axis in zip(line[2:5], ("steps", "flops", "seconds"), strict=True):
            row = matched[line[0].strip(), axis]
            words = [str(row.speedup), row.speedup.interval, row.verdict or ""]
            assert cell.split() == " ".join(words).split()


def test_it_is_one_file_that_fetches_nothing(source):
    page = Page(source)
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "img", "image"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "srcset", "data", "action", "poster") or name.endswith("href"):
                assert value.startswith("#"), (name, value)
    assert not re.search(r"url\((?!#)|@import|@font-face", source)
    addresses = set(re.findall(r'https?://[^\s"<]+', source))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}  # namespaces: never fetched


def test_identifiers_are_unique_and_references_resolve(source):
    names = re.findall(r'\bid="([^"]+)"', source)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', source)) <= set(names)


def test_figures_have_names_and_tables_have_headers(source):
    page = Page(source)
    drawn = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    scales = {f"Validation loss against {axis}{scale}" for axis in ("steps", "FLOPs", "seconds")
              for scale in ("", " (log x scale)", " (log-log scale)")}  # fmt: skip
    assert scales < set(drawn)
    assert len(drawn) == len(set(drawn)) == len(scales) + 8
    assert "Final validation loss against the length of the run" in drawn
    assert "Final validation loss against learning rate" in drawn
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_every_run_is_there_with_its_config_and_manifest(study, source):
    runs = find_runs(study)
    text = " ".join(Page(source).text)
    for run in runs:
        assert run.name in text
        assert (run.folder / "config.yaml").read_text() in text
    assert text.count('"config_hash"') == len(runs)
    assert "diverged at step 200 of 2000" in text
    assert "<script>alert(1)</script>" in text
    assert "<script>" not in source


def test_what_is_unfair_stands_on_top(source):
    warning = source.index("unequal tuning: adamw is the best of 1 settings, soap of 4")
    assert warning < source.index('class="verdicts"') < source.index('id="standings"')


def test_mismatches_stand_in_red_in_a_table_above_all_others(tmp_path, undrawn):
    write_study(tmp_path, {"soap": 1.3}, ladder=(2000,), seeds=1)
    changed = {"schedule.final": 0.01, "schedule.warmup": 50, "grad_clip": None}
    write_run(tmp_path, "kfac", 2000, 0, config=changed)
    write_run(tmp_path, "lion", 2000, 1, config={"grad_clip": None})
    page = Page(render(compare(find_runs(tmp_path), "adamw")))
    assert next(iter(page.tables)) == "mismatches"
    header, *lines = [[cell.strip() for cell in line] for line in page.tables["mismatches"]]
    assert header == ["setting", "adamw", "others"]
    assert sorted(lines) == [
        ["grad_clip", "1", "null for kfac and lion"],
        ["schedule.final", "0.1", "0.01 for kfac"],
        ["schedule.warmup", "0.1", "50 for kfac"],
        ["seed (the order of the data)", "0", "1 for lion"],
    ]


def test_lost_runs_foreign_hardware_and_uncommitted_changes_are_rows_with_links(tmp_path, undrawn):
    write_study(tmp_path, {"soap": 1.3}, ladder=(2000,), seeds=1)
    write_run(tmp_path, "soap", 2000, 1, until=400, status="running")
    write_run(tmp_path, "soap", 2000, 2, until=300, status="diverged")
    write_run(tmp_path, "soap", 2000, 3, manifest={"device.name": "NVIDIA A100", "git.dirty": True})
    again = write_run(tmp_path / "again", "soap", 2000, 3, config={"study": "again"})
    source = render(compare(find_runs(tmp_path), "adamw"))
    page = Page(source)
    expected = {line[0].strip(): line[1].split() for line in page.tables["oddities"][1:]}
    assert expected == {
        "was cut off at step 400 of 2000": ["gpt2-stdlib-soap-T2000-s1"],
        "diverged at step 300 of 2000: the loss is NaN": ["gpt2-stdlib-soap-T2000-s2"],
        "ran on NVIDIA A100, the baseline on NVIDIA H100": ["gpt2-stdlib-soap-T2000-s3"],
        "uncommitted changes in the working tree, at commit 76e1970": ["gpt2-stdlib-soap-T2000-s3"],
    }
    standings = {line[0].strip(): line[1] for line in page.tables["standings"]}
    assert "1 cut off, 1 diverged" in standings["soap"]
    assert "Repeated runs, counted once" in source
    assert (again / "config.yaml").read_text() in " ".join(page.text)
    anchors = set(re.findall(r'<div id="(run-\d+)"', source))
    assert len(anchors) == len(find_runs(tmp_path))  # every run's config is a click away
    assert set(re.findall(r'href="#(run-\d+)"', source)) <= anchors


def test_scales_are_switched_from_the_keyboard(source):
    page = Page(source)
    inputs = [attributes for tag, attributes in page.tags if tag == "input"]
    labels = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
    assert {attributes["type"] for attributes in inputs} == {"radio"}
    assert len({attributes["name"] for attributes in inputs}) == 1
    assert {attributes["id"] for attributes in inputs} == labels
    for scale in ("log-x", "log-log"):
        assert f"#scale-{scale}:checked ~ .figures .{scale}" in source
        assert source.count(f'<div class="{scale}">') == 3
    assert ":focus-visible" in source
    assert "@media print" in source


def test_curves_are_numbers_too(study, source):
    comparison = compare(find_runs(study), "adamw")
    header, *lines = Page(source).tables["numbers"]
    assert [cell.strip() for cell in header] == ["updates", "tokens", "adamw", "muon", "soap", "lion"]
    assert lines[-1][:2] == ["2,000 ", "2,048,000 "]
    assert lines[-1][2].strip() == quantity.loss(comparison.standings[0].loss)
    assert len(lines) <= 21


def test_a_newcomer_that_was_tuned_more_is_red(tmp_path, undrawn):
    study = write_study(tmp_path / "study", {"soap": 1.3}, ladder=(2000,), seeds=1)
    for optimizer, count in {"adamw": 2, "soap": 3}.items():
        trials = tmp_path / "study-tuning" / optimizer
        write_plan(trials, optimizer, 2000, {"optimizer.lr": Range(1e-4, 1e-1)})
        for number in range(count):
            ending = {"until": 100, "status": "diverged"} if number == 2 else {}
            write_run(trials, optimizer, 1000, 1000, config={"optimizer.lr": 10.0 ** (-3 + number / 2)}, **ending)
    main([str(study)])
    source = (study / "report.html").read_text()
    page = Page(source)
    lines = {line[0].split()[0]: [cell.split() for cell in line[1:4]] for line in page.tables["trials"][1:]}
    assert lines == {"adamw": [["2"], ["0"], ["0"]], "soap": [["3", "more", "than", "adamw"], ["0"], ["1"]]}
    assert '<b class="lost">3</b>' in source
    warnings = source[source.index('class="warnings"') : source.index('class="race"')]
    assert "unequal tuning: soap got 3 trials of 1,000 updates, adamw 2 trials of 1,000 updates" in warnings
    assert "Final validation loss against optimizer.lr" in source


def test_the_same_runs_give_the_same_bytes(study, source):
    assert render(compare(find_runs(study), "adamw")) == source


def test_the_baseline_alone_still_has_a_page(tmp_path, undrawn):
    write_study(tmp_path, {}, seeds=1)
    page = Page(render(compare(find_runs(tmp_path), "adamw")))
    assert len(page.tables["standings"]) == 2
    assert "speedups" not in page.tables


def test_nothing_finished_still_has_a_page(tmp_path):
    write_run(tmp_path, "adamw", until=100, status="running")
    write_run(tmp_path, "soap", until=0, status="failed")
    page = Page(render(compare(find_runs(tmp_path), "adamw")))
    expected = [" ".join(line[1].split()) for line in page.tables["standings"][1:]]
    assert expected == ["no finished run 1 cut off", "no finished run 1 failed"]


def test_a_page_that_grows_too_large_leaves_the_configs_out(tmp_path, monkeypatch, one_scale, capsys):
    folder = write_study(tmp_path / "study", {"soap": 1.3}, seeds=1)
    monkeypatch.setattr("scripts.report.LARGEST", 100_000)
    (folder / "gpt2-stdlib-soap-T2000-s0" / "config.yaml").open("a").write("#" * 100_000)
    main([str(folder), "--output", str(tmp_path / "deep" / "page.html")])
    assert capsys.readouterr().err == ""
    page = (tmp_path / "deep" / "page.html").read_text()
    assert len(page) < 200_000
    assert "would have grown too large" in " ".join(page.split())
    assert LARGEST <= 6_000_000


def test_a_folder_without_runs_is_one_sentence(tmp_path, capsys):
    assert "holds no run" in refusal(capsys, main, str(tmp_path))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3e-4, "3e-4"), (0.00125, "0.00125"), (1234, "1,234"), (1e6, "1e6"), (4.12e14, "4.1e14")],
)
def test_numbers_at_axes(value, text):
    assert quantity.short(value) == text
