"""Every command of README, CONTRIBUTING and docs/ works, each link leads somewhere, and the schema of a run is true."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import optimizers
from scripts import adopt
from tests.command import ROOT, environment, in_process, manifest
from tests.command_rehearsal import DRAWING, FENCE, PROGRAMS, CommandRehearsal, commands
from tests.foreign import TEXTS
from tests.study import write_run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = {"README.md": 160, "CONTRIBUTING.md": 120}  # lines; of any other page 120
LONGEST |= {"optimizers.md": 10_000, "external.md": 400}  # which programs write
LANGUAGES = {"sh", "python", "yaml", "text"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def examples() -> list[tuple[str, str]]:
    """Return the pairs (page, command) of all pages, each command once."""
    seen: dict[str, str] = {}
    for page in PAGES:
        for command in commands(page.read_text(encoding="utf-8")):
            seen.setdefault(shlex.join(shlex.split(command, comments=True)), page.name)
    return [(page, command) for command, page in seen.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, corpus):
    """A folder with what the pages speak of: a study, a run with weights, a claim, a package, a corpus."""
    here = tmp_path_factory.mktemp("docs")
    study = here / "results" / "runs" / "first"
    for seed, (optimizer, steps) in itertools.product(range(3), [("adamw", 1000), ("adamw", 2000), ("adamw", 4000),
                                                                 ("soap", 2000)]):  # fmt: skip
        write_run(study, optimizer, steps, seed, speedup=1.3 if optimizer == "soap" else 1.0, noise=0.002)
    for other in ("results/runs/earnest", "results/runs/my_study", "results/demo"):
        shutil.copytree(study, here / other)
    (block,) = (
        each for language, each in FENCE.findall((ROOT / "docs" / "claims.md").read_text()) if language == "yaml"
    )
    (here / "mine.yaml").write_text(block)
    for optimizer, seed in itertools.product(("adamw", "muon"), range(3)):
        (here / "logs").mkdir(exist_ok=True)
        (here / "logs" / f"{optimizer}-s{seed}.log").write_text(
            TEXTS["modded-nanogpt"].replace("3.9", f"3.{seed}{len(optimizer)}")
        )
    (here / "curves.csv").write_text("run,step,loss\nadamw-0,0,9\nadamw-0,9,4\nsoap-0,0,9\nsoap-0,9,3\n")
    (here / "my_package.py").write_text("import torch\n\n\nclass MyOpt(torch.optim.SGD):\n    pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        run = "results/runs/default/gpt2_nano-stdlib-adamw-s0-00000000"
        adopt.main(["logs", "--study", "theirs", "--arm", "(adamw|muon)", "--seed", r"s(\d+)"])
        assert in_process(f"run_dir={run}", "optimizer=sophia_g", "optimizer.every=2").code == 0
    return here


@pytest.fixture
def here(place, monkeypatch):
    """The current folder of a rehearsal, from which packages are imported too."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    yield
    sys.modules.pop("my_package", None)  # other tests hold that there is none


@pytest.fixture
def rehearse(here, monkeypatch):
    """The function that rehearses one command line."""
    return CommandRehearsal(monkeypatch)


@pytest.mark.parametrize(("page", "command"), examples())
def test_a_command_works(page, command, rehearse):
    rehearse(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [line for _, line in examples() if re.search(rf"scripts\.({'|'.join(DRAWING)})\b", line)]
)
def test_a_command_draws(command, here, monkeypatch):
    CommandRehearsal(monkeypatch, drawing=True)(command)


def test_what_has_no_rehearsal_fails(rehearse):
    for line in ("curl example.org", "python -m scripts.sentence", "python nothing.py", "python -m http.server"):
        with pytest.raises((AssertionError, ModuleNotFoundError)):
            rehearse(line)
    for line in (
        "python train.py optimiser=adamw",
        "python train.py -m optimizer=adamw,sopa",
        "python train.py optimizer=external optimizer._target_=my_package.MyOpt",
        "make nothing",
        "python -m scripts.claims verify sophia_3x",
        "python -m scripts.claims verify sophia_2x --sacle tiny",
        "python -m scripts.speedup results/runs/none",
    ):
        with pytest.raises((AssertionError, ValueError, SystemExit)):
            rehearse(line)


def test_commands_stand_where_they_are_found():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert {language for language, _ in FENCE.findall(text)} <= LANGUAGES, page
        rest = FENCE.sub("", text)
        assert "```" not in rest, page
        assert not re.search(rf"^(    |\t) *({'|'.join(PROGRAMS)}) \S", rest, re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Where a link can lead to in a page: its titles, as GitHub and MkDocs write them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_are_short():
    lengths = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST.get(name, 120)} == {}


def keys_of(title: str) -> set[str]:
    """The first column of the table below a title of docs/run-folder.md."""
    section = (ROOT / "docs" / "run-folder.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall("`([^`]+)`", cell)}


def test_the_schema_of_a_run_is_described(place):
    folder = place / "results" / "runs" / "default" / "gpt2_nano-stdlib-adamw-s0-00000000"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    known = {re.sub(r"<\w+>", "*", key) for key in keys_of("metrics.jsonl")}
    written = {key for row in rows for key in row}
    patterns = {key for key in known if "*" in key}
    assert {key for key in written - known if not any(fnmatch(key, each) for each in patterns)} == set()
    # Of compiled runs, of Hessians, on GPUs, of models with a z-loss, on several ranks.
    rare = {"seconds/compile", "seconds/counting", "throughput/mfu", "train/auxiliary", "memory/state_of_rank"}
    assert known - written - patterns == rare
    assert keys_of("manifest.json") - {"optimizer_work"} == set(manifest(folder)) - {"target"}  # of several ranks
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "manifest.json", "metrics.jsonl", "checkpoints",
                                                        "run.lock"}  # fmt: skip


def test_code_on_the_pages_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "run-folder.md").read_text()
    for code in (block for language, block in FENCE.findall(text) if language == "python"):
        exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_the_loops_on_the_page_train(monkeypatch, capsys):
    """The folder optimizers/ stands under the name that it is installed by; tests/test_package.py installs it."""
    monkeypatch.setitem(sys.modules, "halfstep_optimizers", optimizers)
    text = (ROOT / "docs" / "your-loop.md").read_text()
    names: dict = {}
    for code in (block for language, block in FENCE.findall(text) if language == "python"):
        exec(code, names)
    losses = [float(line) for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[\d.]+", line)]
    assert len(losses) == 3
    assert max(losses) < 3.5  # of ln 64 = 4.16 in the beginning


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path):
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, env=environment(NO_MKDOCS_2_WARNING="1"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")} - {"404"}
    assert pages == {path.stem for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".html")}
    for path in (tmp_path / "site").glob("*.html"):
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.?https?:", path.read_text()), path
