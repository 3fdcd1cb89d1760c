"""data/loader.py: pure in (seed, step, rank), without replacement, the same on any number of ranks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from data.loader import Loader, evaluation_batches
from data.writer import Writer

ORDER = [13, 97, 16, 37]  # the first windows of seed 0, epoch 0, of 100
TOKENS = 1003  # 100 windows of 10, and two tokens over


@pytest.fixture
def split(tmp_path, monkeypatch):
    """TOKENS tokens, each its own position, over shards of 64: many windows straddle two."""
    monkeypatch.setattr("data.writer.SHARD_TOKENS", 64)
    writer = Writer(tmp_path, "train")
    writer.write(np.arange(TOKENS, dtype=np.uint16))
    return writer.finish()


def test_shapes_and_targets_one_token_later(split):
    inputs, targets = Loader(split, context=10, sequences=4, seed=0).batch(3)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert torch.equal(targets, inputs + 1)
    assert all(first % 10 == 0 for first in inputs[:, 0].tolist())


def test_an_epoch_is_every_window_once_and_the_next_one_another_order(split):
    loader = Loader(split, context=10, sequences=4, seed=1)
    drawn = [first for step in range(50) for first in loader.batch(step)[0][:, 0].tolist()]
    epochs = drawn[:100], drawn[100:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, 1000, 10))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_a_batch_can_span_two_epochs(split):
    loader = Loader(split, context=10, sequences=48, seed=1)
    drawn = [first for step in range(25) for first in loader.batch(step)[0][:, 0].tolist()]
    for epoch in range(12):
        assert sorted(drawn[epoch * 100 : (epoch + 1) * 100]) == list(range(0, 1000, 10))


def test_pure_in_step_whatever_was_asked_before(split):
    loader = Loader(split, context=10, sequences=8, seed=3)
    forward = [loader.batch(step)[0] for step in range(40)]
    for step in (39, 0, 13, 38, 5):
        assert torch.equal(loader.batch(step)[0], forward[step])
        assert torch.equal(Loader(split, context=10, sequences=8, seed=3).batch(step)[0], forward[step])
    assert not torch.equal(Loader(split, context=10, sequences=8, seed=4).batch(0)[0], forward[0])


@pytest.mark.parametrize("world", [2, 4, 8])
def test_the_global_batch_is_the_same_on_any_number_of_ranks(split, world):
    whole = Loader(split, context=10, sequences=8, seed=3)
    ranks = [Loader(split, context=10, sequences=8, seed=3, rank=rank, world=world) for rank in range(world)]
    for step in (0, 12, 13):
        inputs, targets = whole.batch(step)
        for rank, loader in enumerate(ranks):
            mine = loader.batch(step)
            assert torch.equal(mine[0], inputs[rank::world])
            assert torch.equal(mine[1], targets[rank::world])


def test_the_order_is_frozen(split):
    """Written down: a numpy or a refactoring that changes it makes old runs unrepeatable."""
    order = np.random.RandomState([0, 0]).permutation(100)[:4].tolist()
    assert order == ORDER
    assert [first // 10 for first in Loader(split, context=10, sequences=4, seed=0).batch(0)[0][:, 0].tolist()] == ORDER


def test_reading_ahead_changes_nothing(split):
    plain = Loader(split, context=10, sequences=8, seed=3)
    ahead = Loader(split, context=10, sequences=8, seed=3)
    ahead.ahead = ThreadPoolExecutor(1)  # as on CUDA, which the tests cannot count on
    for step in (0, 1, 2, 3, 30, 31, 2, 12, 13):
        for mine, theirs in zip(ahead.batch(step), plain.batch(step), strict=True):
            assert torch.equal(mine, theirs)
    assert ahead.pending is not None
    assert ahead.pending[0] == 14


def test_impossible_batches_are_refused(split):
    with pytest.raises(ValueError, match=r"batch.tokens: 6 sequences do not divide over 4 ranks"):
        Loader(split, context=10, sequences=6, seed=0, world=4)
    with pytest.raises(ValueError, match=r"needs 1011 tokens, but the training split holds 1003"):
        Loader(split, context=10, sequences=101, seed=0)
    with pytest.raises(ValueError, match="context must be"):
        Loader(split, context=0, sequences=1, seed=0)
    with pytest.raises(ValueError, match=r"batch.tokens must hold"):
        Loader(split, context=10, sequences=0, seed=0)
    with pytest.raises(ValueError, match="seed must be between"):
        Loader(split, context=10, sequences=1, seed=-1)


def test_evaluation_windows_are_fixed_and_spread(split):
    batches = evaluation_batches(split, context=10, tokens=100, micro=4)
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    assert len(batches) == 3
    firsts = [first for inputs, _ in batches for first in inputs[:, 0].tolist()]
    assert firsts == list(range(0, 1000, 100))
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in batches)


def test_evaluation_of_everything(split):
    batches = evaluation_batches(split, context=10, tokens=None, micro=7)
    assert [first for inputs, _ in batches for first in inputs[:, 0].tolist()] == list(range(0, 1000, 10))


def test_evaluation_is_the_same_on_any_number_of_ranks(split):
    whole = [first for inputs, _ in evaluation_batches(split, 10, 130, 4) for first in inputs[:, 0].tolist()]
    for world in (2, 3, 16):
        for rank in range(world):
            mine = evaluation_batches(split, 10, 130, 4, rank=rank, world=world)
            assert [first for inputs, _ in mine for first in inputs[:, 0].tolist()] == whole[rank::world]


def test_impossible_evaluations_are_refused(split):
    with pytest.raises(ValueError, match=r"set eval.tokens to at most 1000"):
        evaluation_batches(split, context=10, tokens=1010, micro=4)
    with pytest.raises(ValueError, match=r"raise eval.tokens"):
        evaluation_batches(split, context=10, tokens=9, micro=4)
    with pytest.raises(ValueError, match=r"under one window of 2000"):
        evaluation_batches(split, context=2000, tokens=None, micro=4)
