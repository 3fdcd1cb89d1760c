"""An optimizer in one file makes the updates of the package, and needs nothing but torch."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from optimizers import Wrapped
from optimizers.take_home import one_file
from scripts.optimizers import main
from tests.cases import quick_cases
from tests.refusal import refusal
from tests.test_loop import NAMES, OWN, loop, trained
from tests.test_optimizers import keywords
from tests.tiny import tiny_model, tiny_objective, train, weights

pytestmark = pytest.mark.filterwarnings("ignore:MKOR-H sees no loss")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the file of every optimizer."""
    folder = tmp_path_factory.mktemp("home")
    for info in OWN:
        main([info.name, f"--take-home={folder / info.name}.py"])
    return folder


# One of each way to step: matrices, curvature, hooks; the others are slow.
KINDS = ("soap", "sophia_g", "mkor")


@pytest.mark.parametrize("name", quick_cases(NAMES, KINDS))
def test_the_bits_are_the_packages(name, files):
    spec = importlib.util.spec_from_file_location(f"taken_{name}", files / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cls = getattr(module, next(info.constructor.__name__ for info in OWN if info.name == name))
    theirs, losses = trained(name)
    model = tiny_model()
    assert train(model, cls(model, **keywords(name)), tiny_objective(model), len(losses)) == losses
    assert all((p == q).all() for p, q in zip(weights(model), weights(theirs), strict=True))
    if not hasattr(cls, "update_curvature"):
        model = tiny_model()
        assert loop(model, cls(model, **keywords(name))) == losses


def test_the_changes_to_a_step_are_a_file_too(tmp_path, monkeypatch):
    main(["wrapped", f"--take-home={tmp_path / 'wrapped.py'}"])
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = {"hyperball": 0.02, "cautious_decay": True, "average": 0.9}
    ends = []
    for cls in (importlib.import_module("wrapped").Wrapped, Wrapped):
        model = tiny_model()
        optimizer = cls(torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), model, **changes)
        loop(model, optimizer, 4)
        with optimizer.eval_weights():
            ends.append(weights(model))
    assert all(map(torch.equal, *ends))


def test_they_need_torch_alone(files):
    """They are imported in a process of their own, in which nothing of the project is found."""
    program = f"""
import importlib, sys
import torch
before = set(sys.modules)
sys.path.insert(0, {str(files)!r})
for name in {NAMES}:
    importlib.import_module(name)
new = {{name.partition('.')[0] for name in set(sys.modules) - before}} - {{*{NAMES}}} - {{*sys.stdlib_module_names}}
assert new <= {{'torch'}}, new
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=files, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_serves_the_benchmark_alone_is_not_in_them(files):
    for name in NAMES:
        text = (files / f"{name}.py").read_text()
        assert "@register" not in text
        assert "def treat(" not in text
        assert "from ." not in text
        assert "SPDX-License-Identifier: Apache-2.0" in text
        compile(text, name, "exec")


def test_nothing_is_overwritten_and_torchs_own_are_not_ours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["lion", "--take-home"])
    before = (tmp_path / "lion.py").read_text()
    for words, complaint in [
        (["lion", "--take-home"], "lion.py is there already"),
        (["adamw", "--take-home"], "AdamW is of torch, and not halfstep's own"),
        (["--take-home"], "give the name of one optimizer"),
        (["lion", "optimizer.lr=1", "--take-home"], "give the name of one optimizer"),
        (["lyon", "--take-home"], "did you mean lion"),
    ]:
        assert complaint in refusal(capsys, main, *words)
    assert (tmp_path / "lion.py").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["lion.py"]


def test_a_name_that_two_files_define_is_found():
    from optimizers.take_home import _check_names

    with pytest.raises(AssertionError, match="x is defined in a and in b"):
        _check_names({"a": {"x"}, "b": {"x", "y"}})
    assert one_file(OWN[0].constructor)
