"""Two ranks are one process, cut in two: the same losses, gradients, curvature and files."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import optimizers
from tests import ranks
from tests.command import ROOT, SMALL, contents, environment, interrupted, manifest, rows, trained

# One of each kind: elementwise, a matrix method, two kinds of curvature, hooks.
QUICK = ["adamw", "muon", "soap", "sophia_g", "adahessian", "kfac"]
REST = [info.name for info in optimizers.list_optimizers() if info.name not in QUICK]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def torchrun(*arguments, cwd):
    """The command under torchrun on two ranks."""
    line = [*TORCHRUN, str(ROOT / "train.py"), *arguments]
    return subprocess.run(line, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600)


def assert_same_curve(one, other):
    """Up to the order of summation in fp32."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            tolerance = 1e-5 if key.endswith("loss") else 2e-3
            assert value == pytest.approx(b[key], rel=tolerance, abs=1e-7), (a["step"], key)


def assert_same_run(one, two):
    """One process's run and that of two ranks."""
    both = rows(two)
    shares = [row.pop("memory/state_of_rank", None) for row in both]
    assert_same_curve(both, rows(one))
    assert all(2 * share <= 1.2 * row["memory/state"] for share, row in zip(shares, both, strict=True) if share)
    assert any(shares)
    assert (manifest(one)["ranks"], manifest(two)["ranks"]) == (1, 2)
    assert manifest(one)["config_hash"] == manifest(two)["config_hash"]
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert [name for name in names[1] if not name.endswith("optimizer-1.pt")] == names[0]
    assert len(names[1]) == len(names[0]) + len(list((two / "checkpoints").iterdir()))
    assert manifest(two)["optimizer_work"]["shared"]
    assert "optimizer_work" not in manifest(one)


def by_ranks(folder, names):
    """The folder of what tests/ranks.py computes, and this: alone, and on each of two ranks."""
    line = [sys.executable, "-m", "tests.ranks", str(folder), ",".join(names)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [folder, *(torch.load(folder / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))]


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    return by_ranks(tmp_path_factory.mktemp("ranks"), QUICK)


@pytest.fixture(scope="module")
def rest(tmp_path_factory, corpus):
    return by_ranks(tmp_path_factory.mktemp("rest"), [*REST, "run"])


@pytest.mark.slow
def test_two_ranks_give_the_run_of_one(rest):
    folder, *_ = rest
    assert_same_run(folder / "run-1", folder / "run-2")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [("optimizer=adamw", "batch.micro=1"), ranks.SOPHIA], ids=["adamw", "sophia_g"])
def test_so_they_do_under_torchrun(here, optimizer):
    arguments = (*SMALL, *optimizer)
    trained(*arguments, run_dir="one")
    done = torchrun(*arguments, "run_dir=two", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(here / "one", here / "two")
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["0/6", "3/6", "6/6"]  # one rank speaks


def test_every_method_of_the_objective_on_two_ranks(computed):
    _, alone, first, second = computed
    assert first.keys() == second.keys() == alone.keys()
    for key in alone.keys() - {"mean of ranks", "buckets", *(f"curve of {name}" for name in QUICK)}:
        for mine in (first[key], second[key]):
            pairs = zip(mine, alone[key], strict=True) if isinstance(mine, list) else [(mine, alone[key])]
            for a, b in pairs:
                assert torch.allclose(a, b, rtol=1e-10, atol=1e-13), key
    assert first["mean of ranks"].tolist() == second["mean of ranks"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks_train_as_one_does(computed, name):
    assert_same_losses(computed, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_so_they_do_under_every_other_optimizer(rest, name):
    assert_same_losses(rest, name)


def assert_same_losses(computed, name):
    """The runs are in float64; what the sums over ranks round differently grows from update to update."""
    alone, first, second = (result[f"curve of {name}"] for result in computed[1:])
    assert torch.equal(first, second)
    assert torch.allclose(first, alone, rtol=1e-6)
    assert alone[-1] != alone[0]


def test_most_of_the_gradient_travels_during_the_backward_pass(computed):
    """The buckets hold a few tensors each; those are counted that were sent before the last backward pass was over."""
    _, alone, first, second = computed
    buckets, sent = first["buckets"].tolist()
    assert second["buckets"].tolist() == [buckets, sent]
    assert sent == buckets > 4
    assert alone["buckets"].tolist() == [buckets, 0]


def test_a_share_that_leaves_a_rank_with_nothing(computed):
    _, alone, first, _ = computed
    assert [int(alone[f"tokens {share}"]) for share in ranks.SHARES] == [8, 4, 2, 1]
    assert not torch.allclose(first["sampled 0.125"][0], first["sampled 0.25"][0], rtol=1e-3)
    assert first["hvp 0.125"][0].abs().max() > 0


@pytest.mark.slow
def test_what_is_wrong_is_said_once_and_leaves_nothing(here):
    done = torchrun(*SMALL, "batch.tokens=384", cwd=here)
    assert done.returncode != 0
    output = [line for line in done.stderr.splitlines() if line.startswith("halfstep: ")]
    assert output == ["halfstep: batch.tokens makes 3 sequences of 128, which do not divide over 2 ranks"]
    assert 'train.py", line' not in done.stderr  # torchrun's own traceback is its own affair
    assert not list(here.iterdir())
    (here / "run").mkdir()
    (here / "run" / "notes.txt").touch()
    done = torchrun(*SMALL, "run_dir=run", cwd=here)  # which the first rank finds, and the second waits for it
    output = [line for line in done.stderr.splitlines() if line.startswith("halfstep: ")]
    assert output == ["halfstep: run_dir=run holds files but no run: give a folder that is empty or new"]
    assert set(re.findall(r"exitcode +: (\S+)", done.stderr)) <= {"2", "-15"}  # the latter are torchrun's


def test_of_ranks_that_end_together_one_speaks(tmp_path):
    program = "from conventions.sentence import complain; complain('no such key')"
    ranks = []
    for rank in range(4):
        place = tmp_path / "attempt_0" / str(rank)
        place.mkdir(parents=True)
        own = environment(TORCHELASTIC_ERROR_FILE=str(place / "error.json"), RANK=str(rank), PYTHONPATH=str(ROOT))
        ranks.append(subprocess.Popen([sys.executable, "-c", program], env=own, stderr=subprocess.PIPE, text=True))
    output = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2, 2, 2]
    assert sorted(output) == ["", "", "", "halfstep: no such key\n"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the ranks are found in /proc")
def test_a_rank_that_dies_does_not_leave_the_other_waiting(here):
    line = [*TORCHRUN, str(ROOT / "train.py"), *SMALL, "steps=100000", "run_dir=run"]
    with subprocess.Popen(
        line, cwd=here, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        while not (here / "run" / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.01)
        second = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_rank(pid, process.pid, "1")]
        os.kill(*second, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert 'train.py", line' not in err
    output = [text for text in err.splitlines() if text.startswith("halfstep: ")]
    assert all(re.match("halfstep: rank 0 has lost the others", text) for text in output)
    assert manifest(here / "run")["status"] in ("failed", "running")


def is_rank(process, parent, rank):
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        environ = Path(f"/proc/{process}/environ").read_text().split("\0")
    except OSError:
        return False
    return int(status[1]) == parent and f"RANK={rank}" in environ


@pytest.mark.slow
def test_ranks_may_come_and_go(here):
    """A run that one process began goes on with two, on the same batches, though not to the same bits."""
    trained(run_dir="one")
    interrupted(run_dir="cut", at=5)
    done = torchrun(*SMALL, "run_dir=cut", "resume=true", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    cut = rows(here / "cut")
    assert [row.pop("memory/state_of_rank", 0) > 0 for row in cut] == [False] * 4 + [True, True, False]
    assert_same_curve(cut, rows(here / "one"))
    assert manifest(here / "one")["resolved"]["micro"] == 4
    assert manifest(here / "cut")["resolved"]["micro"] == 2  # four do not fit in the half of four
    before = contents(here / "cut")
    done = torchrun(*SMALL, "run_dir=cut", "resume=true", cwd=here)
    assert (done.returncode, done.stdout) == (0, "cut is finished already\n")
    assert contents(here / "cut") == before


@pytest.mark.slow
def test_a_sweep_under_torchrun_ends_with_the_job_that_fails(here):
    """Several ranks cannot part in the middle of one job and meet again in the next."""
    sweep = ("-m", "seed=0,1,2,3", "study=two", "steps=1")
    assert torchrun(*SMALL, *sweep, cwd=here).returncode == 0
    (jobs,) = here.glob("results/runs/two/.sweeps/*/jobs.jsonl")
    assert jobs.read_text().count("finished") == 4
    time.sleep(1)  # sweeps are named by the second
    done = torchrun(*SMALL, *sweep, cwd=here)
    assert done.returncode != 0
    output = [line for line in done.stderr.splitlines() if line.startswith("halfstep: ")]
    assert len(output) == 1
    assert re.match("halfstep: job 0 failed: results/runs/two/.* exists already", output[0])
