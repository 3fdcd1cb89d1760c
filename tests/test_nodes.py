"""The nodes of a run hear from one another how its ranks have ended; a projection says what more ranks would bring."""

import pytest

from harness.shares import shares
from harness.sweep.nodes import Nodes
from optimizers.units import Unit
from tests.sharded import plan_of
from tests.tiny import tiny_model

SLURM = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "50007", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
LOST = "rank 1 has lost the others: one of them ended, and says why, or the network failed"


@pytest.fixture
def both(tmp_path):
    return [Nodes.of_slurm({**SLURM, "SLURM_NODEID": number}, tmp_path) for number in "01"]


def test_torchrun_finds_the_first_node(both):
    assert both[1].torchrun == ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=30007"]
    assert Nodes().torchrun == ["--standalone"]


@pytest.mark.parametrize(
    ("first", "second", "agreed"),
    [
        (("finished", None), ("finished", None), ("finished", None)),
        (("failed", LOST), ("failed", "no disk"), ("failed", "no disk")),
        (("failed", LOST), ("cut", "killed by SIGKILL"), ("cut", "killed by SIGKILL")),
        (("failed", LOST), ("failed", LOST), ("failed", LOST)),
    ],
)
def test_the_word_on_a_run_is_that_of_the_node_where_it_went_wrong(both, first, second, agreed):
    assert both[0].heard() == []
    both[0].tell(*first)
    both[1].tell(*second)
    assert both[0].agreed(patience=0) == both[1].agreed(patience=0) == agreed


def test_a_node_that_says_nothing_was_cut_off(both):
    both[0].tell("failed", LOST)
    assert both[0].agreed(patience=0) == ("cut", "1 of its 2 nodes say nothing of how it ended there")


def test_the_words_of_an_earlier_attempt_do_not_count(both, tmp_path):
    both[0].tell("failed", "no disk")
    again = Nodes.of_slurm({**SLURM, "SLURM_RESTART_COUNT": "1"}, tmp_path)
    assert again.heard() == []


def test_one_node_leaves_no_word(tmp_path):
    Nodes(folder=tmp_path).tell("finished", None)
    assert list(tmp_path.iterdir()) == []
    assert Nodes(folder=tmp_path).heard() == []


def test_what_ranks_bear_and_send():
    p = tiny_model().get_parameter("blocks.0.mlp.up.weight")
    units = [Unit((p,), work, state) for work, state in [(6.0, 10), (2.0, 30), (3.0, 20), (1.0, 0)]]
    found = shares(units, 2)
    assert (found.work, found.state_bytes) == (6.0, 50)
    size = 4 * 4 * p.numel()
    assert (found.gradient_bytes, found.weight_bytes) == (size, size / 2)
    assert shares(units, 1) == (12.0, 60, 0, 0)


def test_units_join_what_belongs_together():
    model = tiny_model(bias=True)
    plan = plan_of("kfac")
    found = plan.units(plan.build(model), model, 128)
    sizes = sorted(len(unit.params) for unit in found)
    assert sizes.count(2) == 8  # weight and bias of the four layers of two blocks
    assert sorted(map(id, (p for unit in found for p in unit.params))) == sorted(map(id, model.parameters()))
