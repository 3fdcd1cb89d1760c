"""An attempt at a run puts right what it touched, however it ends; what goes into its checkpoints comes back."""

import pytest
import torch

from conventions.run_format import is_locked
from harness import checkpoint
from harness.attempt import Attempt
from harness.kernels import choose_kernels
from harness.run_folder import RunFolder
from tests.mirror import open_folder


class Watcher:
    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def log(self, row):
        raise AssertionError("there are no rows")

    def close(self, status):
        self.heard.append((self.name, status))


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return open_folder(tmp_path / "run")


def settings():
    return torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled()


@pytest.fixture
def heard():
    return []


def test_the_process_is_left_as_it_was(folder):
    before = settings()
    with Attempt(folder) as attempt:
        torch.set_num_threads(before[0] + 1)
        choose_kernels("cpu", 64)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cuda.enable_flash_sdp(not before[2])
        assert is_locked(folder.path / "run.lock")
        attempt.end("finished", None)
    assert settings() == before
    assert not is_locked(folder.path / "run.lock")


def test_whoever_watches_hears_the_end_before_anything_is_undone(folder, heard):
    with Attempt(folder) as attempt:
        attempt.callback(heard.append, "undone")
        attempt.watch([Watcher("tracker", heard), Watcher("display", heard)])
        assert attempt.end("diverged", "the loss was not finite") == "diverged"
    assert heard == [("tracker", "diverged"), ("display", "diverged"), "undone"]
    assert (folder.manifest["status"], folder.manifest["error"]) == ("diverged", "the loss was not finite")


def failed(folder, error, heard=None, **options):
    with Attempt(folder, **options) as attempt:
        attempt.watch([Watcher("tracker", heard)] if heard is not None else [])
        raise error


@pytest.mark.parametrize("error", [ValueError("steps must be at least 1"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_failure_goes_on_as_it_is(folder, heard, error):
    with pytest.raises(type(error)) as caught:
        failed(folder, error, heard)
    assert caught.value is error
    assert heard == [("tracker", "failed")]
    recorded = {ValueError: "steps must be at least 1", RuntimeError: "RuntimeError('a bug')", KeyboardInterrupt: None}
    assert folder.manifest["error"] == recorded[type(error)]


def test_an_external_optimizer_is_named_in_its_errors(folder):
    with pytest.raises(ValueError, match=r"optimizer\._target_=some\.Class cannot run here \(KeyError: 'x'\)"):
        failed(folder, KeyError("x"), external="some.Class")
    assert folder.manifest["status"] == "failed"
    assert folder.manifest["error"].startswith("optimizer._target_=some.Class cannot run here")


def test_a_checkpoint_knows_parts_by_their_keys(tmp_path):
    class Part:
        def __init__(self, key, value):
            self.key, self.value = key, value

        def state(self):
            return self.value

        def restore(self, state):
            self.value = state

    first, later = [Part("one", 1), Part("two", {"a": 2})], [Part("one", 0), Part("two", {}), Part("three", 3)]
    checkpoint.restore(later, checkpoint.states(first))
    assert [part.value for part in later] == [1, {"a": 2}, 3]  # of the third an older checkpoint knows nothing
