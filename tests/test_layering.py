"""The house rules that no one should have to remember: a star of packages, short files, no optimizer's name."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import optimizers

ROOT = Path(__file__).resolve().parent.parent
STAR = ("optimizers", "models", "data", "harness", "judge")
LEAF = "conventions"  # what all of them may import
JOINERS = ("train", "scripts", "tests", "hydra_plugins")
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
FILES = [ROOT / "train.py", *(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))]
NAMES = {info.name for info in optimizers.list_optimizers()}

# What reads run folders, and what answers before a run begins.
WITHOUT_TORCH = ["harness.command_line", "scripts.speedup", "scripts.report", "scripts.runs", "scripts.claims"]
WITHOUT_TORCH += ["scripts.plot", "scripts.dashboard", "scripts.adopt"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module if node.module and not node.level else relative(path))
    return {name.split(".")[0].split("/")[0] for name in found}


def test_the_files_are_found():
    assert {relative(path).split("/")[0] for path in FILES} == {"train.py", *STAR, LEAF, "scripts", "tests"}


@pytest.mark.parametrize("package", STAR)
def test_the_packages_of_the_star_import_none_of_the_others(package):
    others = {*STAR, *JOINERS} - {package}
    offenders = {relative(path): imported(path) & others for path in (ROOT / package).rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_the_leaf_imports_nothing_of_ours():
    offenders = {relative(path): imported(path) & {*STAR, *JOINERS} for path in (ROOT / LEAF).rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_the_judge_needs_no_torch_and_no_hydra():
    heavy = {"torch", "hydra", "transformers", "wandb"}
    offenders = {relative(path): imported(path) & heavy for path in (ROOT / "judge").rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_training_needs_no_script():
    assert "scripts" not in imported(ROOT / "train.py")


def test_analysis_and_help_need_no_torch():
    program = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_hydra_is_used_by_its_public_names():
    private = re.compile(r"^\s*(from|import)\s+hydra\._", re.MULTILINE)
    assert [
        relative(path) for path in [*FILES, *(ROOT / "hydra_plugins").glob("*.py")] if private.search(path.read_text())
    ] == []


def test_files_are_short_and_named_for_a_thing():
    assert [relative(path) for path in FILES if len(path.read_text().splitlines()) > 300] == []
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert [relative(path) for path in FILES if path.stem in vague] == []


@functools.cache  # what many files import is parsed once
def constants(path: Path) -> dict[str, ast.expr]:
    """Return what a module's names stand for: its own assignments, and those of ours that it imports."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name] = value
            case ast.ImportFrom(module=str(module), names=aliases):
                source = ROOT / f"{module.replace('.', '/')}.py"
                theirs = constants(source) if source.is_file() else {}
                found |= {alias.asname or alias.name: theirs[alias.name] for alias in aliases if alias.name in theirs}
    return found


def texts(node: ast.AST, known: dict[str, ast.expr]) -> set[str]:
    """Strings in an expression, its constants followed to what they stand for."""
    found = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    for name in {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} & known.keys():
        found |= texts(known[name], {key: value for key, value in known.items() if key != name})
    return found


def choices(node: ast.AST) -> list[ast.AST]:
    """Where a branch would hold a name: in a comparison, a `case`, the keys of a table, a look-up."""
    match node:
        case ast.Compare() | ast.MatchValue():
            return [node]
        case ast.Dict():
            return [key for key in node.keys if key]
        case ast.Subscript():
            return [node.slice]
    return []


def listed(node: ast.AST) -> list[ast.AST]:
    """The entries of lists, tuples, sets and tables."""
    match node:
        case ast.List() | ast.Tuple() | ast.Set():
            return list(node.elts)
        case ast.Dict():
            return list(node.values)
    return []


def named_optimizers(path: Path) -> list[str]:
    """Lines on which a file decides something by an optimizer's name, or keeps a list of names."""
    tree, known = ast.parse(path.read_text()), constants(path)
    places = [place for node in ast.walk(tree) for place in choices(node)]
    kept = [
        value for value in (node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)) if value
    ]
    places += [place for value in kept for node in ast.walk(value) for place in listed(node)]
    found = {f"{relative(path)}:{place.lineno}: {name}" for place in places for name in NAMES & texts(place, known)}
    return sorted(found)


def test_no_branch_on_an_optimizers_name_outside_optimizers():
    """A default or a rule may be called like one (`--baseline adamw`); nothing is decided by it."""
    files = [path for path in FILES if not relative(path).startswith(("optimizers/", "tests/"))]
    assert [line for path in files for line in named_optimizers(path)] == []


@pytest.mark.parametrize("program", [
    "if name == 'soap': pass", "SOAP = 'soap'\nif name == SOAP: pass", "match name:\n    case 'soap': pass",
    "TABLE = {'soap': 1}", "x = rows['soap']", "NAMES = ['soap', 'other']", "NAMES: tuple = ('soap',)",
    "SET = {'soap'}",
    "FIRST = 'soap'\nMANY = [(FIRST, 1)]", "STAGES = [Stage('claim', ('soap',))]",
    "from tests.test_layering import PLANTED\nif name == PLANTED: pass",
])  # fmt: skip
def test_a_name_is_found_wherever_it_decides(program, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "relative", lambda path: path.name)
    (tmp_path / "planted.py").write_text(program)
    assert [line.partition(": ")[2] for line in named_optimizers(tmp_path / "planted.py")] == ["soap"]


PLANTED = "soap"


def test_a_name_that_decides_nothing_is_none_of_its_business(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "relative", lambda path: path.name)
    (tmp_path / "planted.py").write_text("def compare(baseline='soap'): return f'{baseline} beside soap'")
    assert named_optimizers(tmp_path / "planted.py") == []


def test_every_optimizer_has_a_yaml_and_every_yaml_an_optimizer():
    sections = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs/optimizer").glob("*.yaml")}
    own = {stem: section["name"] for stem, section in sections.items() if section["name"] != "external"}
    assert own == {name: name for name in NAMES}
    assert all("_target_" in section for stem, section in sections.items() if stem not in own)
