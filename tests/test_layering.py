"""The house rules that no one should have to remember: a star of packages, short files, no optimizer's name."""

import ast
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
PACKAGES = (*STAR, LEAF, "scripts", "tests")
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


def choices(node: ast.AST) -> list[ast.expr | ast.pattern]:
    """Where a branch would hold a name: in a comparison, a `case`, the keys of a table, a look-up."""
    match node:
        case ast.Compare() | ast.MatchValue():
            return [node]
        case ast.Dict():
            return [key for key in node.keys if key]
        case ast.Subscript():
            return [node.slice]
    return []


def test_no_branch_on_an_optimizers_name_outside_optimizers():
    """A default or a rule may be called like one (`--baseline adamw`); nothing is decided by it."""
    found = []
    for path in FILES:
        if relative(path).startswith(("optimizers/", "tests/")):
            continue
        for place in (place for node in ast.walk(ast.parse(path.read_text())) for place in choices(node)):
            constants = {part.value for part in ast.walk(place) if isinstance(part, ast.Constant)}
            found += [f"{relative(path)}:{place.lineno}: {name}" for name in NAMES & constants]
    assert found == []


def test_every_optimizer_has_a_yaml_and_every_yaml_an_optimizer():
    sections = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs/optimizer").glob("*.yaml")}
    own = {stem: section["name"] for stem, section in sections.items() if section["name"] != "external"}
    assert own == {name: name for name in NAMES}
    assert all("_target_" in section for stem, section in sections.items() if stem not in own)
