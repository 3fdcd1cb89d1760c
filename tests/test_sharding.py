"""Ranks that share an optimizer's work out train to the same bits as ranks that each do all of it."""

import math
import subprocess
import sys

import pytest
import torch

import optimizers
from harness.distributed import Ranks
from harness.sharding import Sharding, owners
from optimizers.units import Unit
from tests.command import ROOT, environment
from tests.sharded import plan_of
from tests.tiny import tiny_model

NAMES = [info.name for info in optimizers.list_optimizers()]
CHANGES = "optimizer.hyperball=0.02 optimizer.cautious_decay=true optimizer.average=0.9 optimizer.weight_decay=0.1"
# One of each kind: a matrix method, hooks, curvature, a norm over everything, an external class, an average of weights.
QUICK = ["soap", "mkor_h", "sophia_g", "lamb", "schedule_free_adamw", f"muon {CHANGES}"]
ALL = [*NAMES, "ademamix", "mars", "prodigy", "pytorch_optimizer.SOAP", "pytorch_optimizer.Adan", "torch.optim.LBFGS"]
ALL += ["pytorch_optimizer.StableAdamW"]
ALL += [f"{name} {CHANGES}" for name in ("soap", "pytorch_optimizer.Lion")]


def computed(folder, what, worlds, names):
    """What the ranks have found, by their number and rank."""
    line = [sys.executable, "-m", "tests.sharded", what, str(folder), ",".join(map(str, worlds)), ",".join(names)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    places = [(world, rank) for world in worlds for rank in range(world)]
    return {place: torch.load(folder / "{}-{}.pt".format(*place)) for place in places}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return computed(tmp_path_factory.mktemp("quick"), "compare", [2], [*QUICK, "prodigy"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return computed(tmp_path_factory.mktemp("all"), "compare", [2], ALL)


def assert_same_bits(one, other):
    for key in ("losses", "metrics", "flops", "state"):
        assert one[key] == pytest.approx(other[key], rel=0, abs=0, nan_ok=True), key
    for key in ("weights", "evaluated"):
        assert all(map(torch.equal, one[key], other[key])), key


def assert_shared(found, name):
    (alone, shared), (other_alone, other_shared) = (rank[name] for rank in found.values())
    assert alone["facts"] == {"shared": False, "reason": "shard_optimizer=false"}
    assert shared["facts"]["shared"], shared["facts"]
    assert_same_bits(shared, alone)
    assert_same_bits(other_shared, other_alone)
    assert all(map(math.isfinite, shared["losses"]))
    assert shared["kept"] + other_shared["kept"] == shared["state"] == alone["kept"]
    assert shared["printed"] == ""


@pytest.mark.parametrize("name", QUICK)
def test_no_bit_changes_and_each_rank_keeps_its_own_state(quick, name):
    assert_shared(quick, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("prodigy", "torch.optim.LBFGS")])
def test_nor_does_one_under_any_other_optimizer(whole, name):
    assert_shared(whole, name)


@pytest.mark.slow
def test_every_step_is_made_by_every_rank_where_it_cannot_be_shared(whole):
    assert whole[2, 0]["torch.optim.LBFGS"][1]["facts"]["reason"] == (
        "LBFGS steps on parameters that are not in its groups"
    )


def test_a_method_that_couples_its_parameters_is_repeated_on_every_rank_and_says_so(quick):
    (alone, repeated), (_, other) = (rank["prodigy"] for rank in quick.values())
    why = "Prodigy's groups keep what depends on their parameters"
    assert repeated["facts"] == {"shared": False, "reason": why}
    assert repeated["printed"] == f"every one of the 2 ranks repeats the optimizer's work: {why}\n"
    assert other["printed"] == ""
    assert_same_bits(repeated, alone)


@pytest.mark.parametrize("name", ["adamw", "soap", "muon", "kfac"])
def test_each_of_two_ranks_keeps_about_half(name):
    model = tiny_model()
    plan = plan_of(name)
    sharding = Sharding(plan.build(model), plan.units(plan.build(model), model, 128), Ranks(0, 2), None)
    assert sharding.facts()["state"] == pytest.approx([0.5, 0.5], abs=0.1)


def test_the_largest_units_are_given_out_first():
    costs = [1, 7, 5, 1, 4]
    units = [Unit((), work, 0) for work in costs]
    assert owners(units, 2) == [0, 0, 1, 0, 1]  # 7, then 5 and 4, then what is left where there is less
    assert owners([Unit((), 0.0, state) for state in (3, 2, 2)], 2) == [0, 1, 1]  # by state where there is no work
    assert owners(units, 1) == [0] * 5


RESUMED = ["soap", "mkor_h", "schedule_free_adamw", f"adamw {CHANGES}"]
WORLDS = (2, 1, 4)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    return folder, computed(folder, "resume", WORLDS, RESUMED), torch.load(folder / "straight-0.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_two_ranks_go_on_from_their_checkpoint_to_the_same_bits(resumed, name):
    _, _, (again, straight) = resumed
    first, second = again[name]
    assert first["losses"] + second["losses"] == straight[name]["losses"][:14]
    assert all(map(torch.equal, second["weights"], straight[name]["at 14"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_any_number_of_ranks_goes_on_from_the_checkpoint_of_another(resumed, name):
    """Two ranks, then one, then four: up to the order of sums."""
    folder, found, (_, straight) = resumed
    losses = []
    for world in WORLDS:
        ranks = [found[world, rank][name] for rank in range(world)]
        losses += ranks[0]["losses"]
        assert sum(rank["kept"] for rank in ranks) == ranks[0]["state"] == straight[name]["state"]
    assert losses == pytest.approx(straight[name]["losses"], rel=1e-4)
    files = sorted(path.name for path in (folder / name / "step-00000021").glob("optimizer*"))
    assert files == ["optimizer-1.pt", "optimizer-2.pt", "optimizer-3.pt", "optimizer.pt"]
