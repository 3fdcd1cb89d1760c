"""One folder of prepared corpora for the whole test session, whatever the number of pytest's workers."""

import gc
import os
import sys
import tempfile
from types import SimpleNamespace

import pytest

OWN = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    """HALFSTEP_DATA where the caller has set it, a temporary folder otherwise; workers inherit it."""
    if "HALFSTEP_DATA" not in os.environ:
        config.stash[OWN] = tempfile.TemporaryDirectory(prefix="halfstep-data-")
        os.environ["HALFSTEP_DATA"] = config.stash[OWN].name


def pytest_unconfigure(config: pytest.Config) -> None:
    if OWN in config.stash:
        del os.environ["HALFSTEP_DATA"]
        config.stash[OWN].cleanup()


@pytest.fixture(scope="module", autouse=True)
def imported_for_good():
    """What is imported stays: a run's gc.collect() need not go through the modules of all tests, half its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def corpus():
    """The embedded corpus, prepared: no run has to say that it is being made."""
    from data import load

    return load("stdlib", quiet=True, dir=os.environ["HALFSTEP_DATA"])


@pytest.fixture
def busy(monkeypatch):
    """Lets seconds go by on the clock of runs. Nothing else does, so that each second is counted exactly."""
    now = [100.0]
    monkeypatch.setattr("harness.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are left empty, where a test is about something else: each takes a tenth of a second."""
    monkeypatch.setattr("scripts.pages.canvas.Drawing.svg", lambda self: f"<svg aria-label={self.title!r}></svg>")
    monkeypatch.setattr("scripts.pages.canvas.Drawing.file", lambda self, kind: b"")


@pytest.fixture
def here(tmp_path, monkeypatch, corpus):
    """An empty folder to run the command in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def compiling_as_a_process_begins():
    """No test leaves the next one in its process without a compiler, as a program that measures eager steps would."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch"].compiler.set_stance("default")
