"""The folder optimizers/ installs as the package halfstep_optimizers, with torch alone and nothing of the project."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_loop import OWN

ROOT = Path(__file__).parent.parent
PLAIN_LOOP = """
import sys
import torch
before = set(sys.modules)
import halfstep_optimizers
from halfstep_optimizers import {names}
own = [name for name in sys.modules if name.partition(".")[0] == "halfstep_optimizers"]
assert len(own) > 20, own
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - {{*sys.stdlib_module_names}}
assert new <= {{"halfstep_optimizers", "torch"}}, new
assert "conventions" not in sys.modules
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
optimizer = Muon(model.parameters())
model(torch.randn(3, 4)).square().mean().backward()
optimizer.step()
print(halfstep_optimizers.__file__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip has installed a copy of the checkout, without an index."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE", "docs", "optimizers"):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
            "--target", str(folder / "site"), str(folder)]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_it_runs_by_itself(site, tmp_path):
    names = ", ".join(info.constructor.__name__ for info in OWN)
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n" + PLAIN_LOOP.format(names=names)
    line = [sys.executable, "-I", "-c", program]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Muon tells by shapes: 3 hidden matrices" in done.stdout
    assert done.stdout.strip().endswith("halfstep_optimizers/__init__.py")


def test_it_holds_every_file_but_what_binds_a_config(site):
    installed = {path.name for path in (site / "halfstep_optimizers").glob("*.py")}
    assert installed == {path.name for path in (ROOT / "optimizers").glob("*.py")}
    assert not (site / "halfstep_optimizers" / "plan").exists()


def test_it_depends_on_torch_alone(site):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [each.partition(">")[0] for each in project["dependencies"]] == ["torch"]
    (metadata,) = site.glob("halfstep_optimizers-*.dist-info/METADATA")
    assert [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")] == [
        f"Requires-Dist: {project['dependencies'][0]}"
    ]
