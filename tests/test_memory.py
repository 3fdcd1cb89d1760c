"""A run that would take the machine's memory ends in a sentence, before the kernel kills it."""

import resource

import pytest
import torch

from harness import memory
from harness.memory import RESERVE, bounded, free_bytes, lacks
from tests.command import complaint, in_process, manifest

pytestmark = pytest.mark.skipif(free_bytes() is None, reason="the memory is read in /proc")
ROOM = 2**30


class Greedy(torch.optim.SGD):
    """Takes twice the room in the first step of a run; the small model of the tryout is no run."""

    def step(self, closure):
        if sum(p.numel() for group in self.param_groups for p in group["params"]) > 10**5:
            self.state["hoard"] = torch.zeros(2 * ROOM // 4)
        return super().step(closure)


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: ROOM)


def test_a_process_takes_what_is_free_and_no_more(little):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded("cpu"):
        torch.empty(ROOM // 2, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2 * ROOM, dtype=torch.uint8)
    assert lacks(caught.value) == (
        "it needs more memory than this machine has free (2.15 GB more were asked for): lower batch.micro, or take a "
        "smaller model"
    )
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    torch.empty(2 * ROOM, dtype=torch.uint8)


def test_ranks_share_it_and_a_gpu_has_its_own(little, monkeypatch):
    monkeypatch.setattr(memory, "_kilobytes", lambda *_: 1024)  # that the process holds
    with bounded("cuda:0"):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    for ranks in (1, 4):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        with bounded("cpu"):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**20 + int((1 - RESERVE) * ROOM) // ranks


def test_other_errors_are_not_about_memory():
    assert lacks(RuntimeError("shapes do not match")) is None
    assert "the GPU has free (2.00 GiB more" in lacks(torch.OutOfMemoryError("CUDA: Tried to allocate 2.00 GiB. GPU 0"))
    assert "this machine has free:" in lacks(MemoryError())


def test_the_run_ends_in_a_sentence_that_its_manifest_keeps(little, here):
    greedy = ("optimizer=external", f"optimizer._target_={__name__}.Greedy", "optimizer.lr=0.1")
    trusted = f"allow_targets=[{__name__.partition('.')[0]}]"
    sentence = complaint(in_process(*greedy, trusted, "steps=2", "run_dir=run"))
    assert sentence.startswith(f"optimizer._target_={__name__}.Greedy: it needs more memory than this machine has free")
    assert sentence.endswith("or another optimizer; the run is stopped before the kernel kills it")
    assert {key: manifest(here / "run")[key] for key in ("status", "error")} == {"status": "failed", "error": sentence}


def test_a_control_group_may_allow_less_than_the_machine_has(tmp_path, monkeypatch):
    """As SLURM and containers set it, at any level; cached files are no loss."""
    real = memory.Path

    def path(*parts):
        text = str(real(*parts))
        return real(
            text.replace("/sys/fs/cgroup", str(tmp_path / "fs")).replace("/proc/self/cgroup", str(tmp_path / "c"))
        )

    for kinds, names in (
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
        ("", ("memory.max", "memory.current")),
    ):
        group = tmp_path / "fs" / kinds / "job" / "step"
        group.mkdir(parents=True)
        for folder, limit in ((group, "max"), (group.parent, str(10**6))):
            for name, text in zip((*names, "memory.stat"), (limit, "400000", "inactive_file 100000\n"), strict=True):
                (folder / name).write_text(text)
        (tmp_path / "c").write_text(f"3:pids:/\n0:{kinds}:/job/step\n")
        monkeypatch.setattr(memory, "Path", path)
        assert free_bytes() == 700000
        monkeypatch.undo()
