"""README's example optimizer, taken from its text, must work in a copy of the project as it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import SMALL, environment

ROOT = Path(__file__).parent.parent


@pytest.fixture
def example(tmp_path):
    """A copy of the project with README's three blocks in place."""
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "results", ".*_cache")
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=ignored)
    text = (ROOT / "README.md").read_text()
    code, imported = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (section,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 26
    (project / "optimizers" / "signum.py").write_text(code)
    (project / "configs" / "optimizer" / "signum.yaml").write_text(section)
    with open(project / "optimizers" / "__init__.py", "a") as file:
        file.write("\n" + imported)
    return project


@pytest.mark.slow
def test_the_example_optimizer_trains_and_passes_what_every_optimizer_must(example, corpus):
    def run(*arguments):
        line = [sys.executable, *arguments]
        return subprocess.run(
            line, cwd=example, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    trained = run("train.py", "optimizer=signum", "run_dir=out", *SMALL)
    assert trained.returncode == 0, trained.stderr
    assert (example / "out" / "metrics.jsonl").exists()
    wrong = run("train.py", "optimizer=signum", "optimizer.momentun=0.5", "run_dir=wrong", *SMALL)
    assert wrong.returncode == 2
    assert "did you mean momentum" in wrong.stderr
    suite = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_optimizers.py", "-k", "signum")
    assert suite.returncode == 0, suite.stdout
