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
LEAF = "conventions"  # what all of them may import
JOINERS = ("train", "scripts", "tests", "hydra_plugins")
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
STAR = [name for name in PACKAGES if name not in (LEAF, *JOINERS)]  # a new package is one of them
FILES = [ROOT / "train.py", *(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))]
NAMES = {info.name for info in optimizers.list_optimizers()}
DEFAULT = "BASELINE"  # a constant that a table may show, as what others are compared with; nothing is decided by it

# What reads run folders, and what answers before a run begins.
WITHOUT_HYDRA = ["scripts.speedup", "scripts.report", "scripts.runs"]
WITHOUT_TORCH = [*WITHOUT_HYDRA, "scripts.claims", "scripts.plot", "scripts.dashboard", "scripts.adopt"]
WITHOUT_TORCH += ["harness.command_line"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    result: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            result.add(node.module if node.module and not node.level else relative(path))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            result |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {name.split(".")[0].split("/")[0] for name in result}


def test_the_files_are_found():
    assert {relative(path).split("/")[0] for path in FILES} == {"train.py", *STAR, LEAF, "scripts", "tests"}
    assert {*STAR} >= {"optimizers", "models", "data", "harness", "judge"}
    assert {path.parent.name for path in ROOT.glob("*/*.py")} <= {*PACKAGES, *JOINERS}


@pytest.mark.parametrize("package", STAR)
def test_the_packages_of_the_star_import_none_of_the_others(package):
    others = {*STAR, *JOINERS} - {package}
    offenders = {relative(path): imported(path) & others for path in (ROOT / package).rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_the_leaf_imports_nothing_of_ours():
    offenders = {relative(path): imported(path) & {*STAR, *JOINERS} for path in (ROOT / LEAF).rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_the_judge_needs_no_torch_and_no_hydra():
    heavy = {"torch", "hydra", "omegaconf", "transformers", "wandb"}
    offenders = {relative(path): imported(path) & heavy for path in (ROOT / "judge").rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_one_file_reads_and_writes_yaml():
    """The others call it, so that no file is read by other rules, or ends in a traceback."""
    files = [path for path in FILES if not relative(path).startswith("tests/")]
    assert [relative(path) for path in files if "yaml" in imported(path)] == [f"{LEAF}/yaml_file.py"]


def test_training_needs_no_script():
    assert "scripts" not in imported(ROOT / "train.py")


def test_analysis_and_help_need_no_torch():
    program = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
    heavy = {{"torch", "datasets"}} | ({{"hydra"}} if name in {WITHOUT_HYDRA} else set())
    if heavy & {{*sys.modules}}:
        sys.exit(f"{{name}} imports {{heavy & {{*sys.modules}}}}")
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


def test_the_programs_and_the_trainer_stay_small():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    assert lines[ROOT / "train.py"] <= 180
    assert sum(count for path, count in lines.items() if relative(path).startswith("scripts/")) <= 5500


def test_no_two_public_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for path in [*FILES, *(ROOT / "hydra_plugins").glob("*.py")]:
        for node in ast.walk(parsed(path)) if not relative(path).startswith("tests/") else []:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(relative(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@functools.cache  # what many files import is parsed once
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def assigned(path: Path) -> dict[str, set[str]]:
    """Return the texts of what a file's names stand for, those of its classes and functions too."""
    result: dict[str, set[str]] = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    result.setdefault(target.id, set()).update(words(node.value))
    return result


def words(node: ast.AST) -> set[str]:
    """Every string in an expression, and every word of it."""
    texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return texts | {word for text in texts for word in re.split(r"[\s,=]+", text)}


def constants(path: Path) -> dict[str, set[str]]:
    """Return the optimizers' names that a file's names stand for: its own, and those of modules that it imports."""
    tree, known = parsed(path), assigned(path)
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for source in (ROOT / f"{module.replace('.', '/')}.py" for module in modules):
            for name, theirs in (assigned(source) if source.is_file() else {}).items():
                known[name] = known.get(name, set()) | theirs
    return {name: texts & NAMES for name, texts in known.items() if texts & NAMES}


def choices(node: ast.AST) -> list[ast.AST]:
    """Where a branch would hold a name, and lists of names: comparisons, cases, tables, look-ups, words taken apart."""
    match node:
        case ast.Compare() | ast.MatchValue():
            return [node]
        case ast.Dict():
            return [*(key for key in node.keys if key), *node.values]
        case ast.Subscript():
            return [node.slice]
        case ast.List() | ast.Tuple() | ast.Set():
            return list(node.elts)
        case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "get" | "split")):
            return [node]
        case ast.Call(func=ast.Name(id="dict")):
            return [ast.Constant(pair.arg, lineno=node.lineno) for pair in node.keywords]
    return []


def named_optimizers(path: Path) -> list[str]:
    """Lines on which a file decides something by an optimizer's name, or keeps a list of names."""
    known, result = constants(path), set()
    for place in (place for node in ast.walk(parsed(path)) for place in choices(node)):
        names = words(place) & NAMES
        for part in ast.walk(place):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if name != DEFAULT or isinstance(place, ast.Compare | ast.MatchValue):
                names |= known.get(name, set())
        result |= {f"{relative(path)}:{place.lineno}: {name}" for name in names}  # type: ignore[attr-defined]
    return sorted(result)


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
    "from tests import test_layering\nif name == test_layering.PLANTED: pass",
    "import tests.test_layering as t\nif name == t.PLANTED: pass",
    "def f():\n    from tests.test_layering import PLANTED\n    return name == PLANTED",
    "def f():\n    for each in ['soap', 'other']: pass", "def f(names=('soap', 'other')): pass",
    "def f():\n    one = 'soap'\n    return name == one",
    "class A:\n    ONE = 'soap'\n    def f(self): return x == self.ONE",
    "if name.startswith('soap'): pass", "ALL = 'soap other'.split()", "TABLE = dict(soap=1)", "table.get('soap')",
    "RUNS = ['optimizer=soap', 'seed=1']", "BASELINE = 'soap'\nif name == BASELINE: pass",
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
