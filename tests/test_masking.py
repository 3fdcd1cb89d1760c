"""Batches for masked prediction: what is hidden, what is asked for, and that it depends on the key alone."""

import numpy as np
import pytest
import torch

from conventions.masking import NEXT, RANDOM, Masking
from conventions.targets import UNCOUNTED
from data.loader import Loader, cut_for, evaluation_batches
from data.masking import MaskedWindows
from data.shards import Stream
from data.writer import Writer

CONTEXT, VOCABULARY = 100, 60000
MASK, CLS, SEP = range(VOCABULARY, VOCABULARY + 3)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A hundred windows of tokens, each its own position."""
    writer = Writer(tmp_path_factory.mktemp("split"), "train")
    writer.write(np.arange(100 * CONTEXT + 1, dtype=np.uint16))
    return writer.finish()


def batch(split, masking: Masking, windows: range = range(4), seed: int = 0):
    cut = MaskedWindows(masking, VOCABULARY, (MASK, CLS, SEP))
    inputs, targets = cut(Stream(split), list(windows), [(seed, 0)] * len(windows), CONTEXT)
    return inputs.numpy(), targets.numpy()


def text(split, windows: range = range(4)) -> np.ndarray:
    return np.stack([Stream(split).read(w * CONTEXT, CONTEXT) for w in windows]).astype(np.int64)


def test_a_share_of_the_tokens_is_asked_for_and_nothing_else_changes(split):
    inputs, targets = batch(split, Masking(0.15, None, False))
    assert ((targets >= 0).sum(1) == 15).all()
    assert (targets[targets < 0] == UNCOUNTED).all()
    assert (np.where(targets >= 0, targets, inputs) == text(split)).all()


@pytest.mark.parametrize(
    ("share", "most", "asked"), [(0.15, 7, 7), (0.001, None, 1), (1.0, None, 100), (0.126, 80, 13)]
)
def test_how_many_are_asked_for(split, share, most, asked):
    masking = Masking(share, most, False)
    assert masking.predictions(CONTEXT) == asked
    assert ((batch(split, masking)[1] >= 0).sum(1) == asked).all()


def test_of_ten_eight_are_masked_one_is_replaced_and_one_stays(split):
    windows = range(100)
    inputs, targets = batch(split, Masking(0.5, None, False), windows)
    chosen = targets >= 0
    number = chosen.sum()
    masked = (inputs == MASK).sum() / number
    kept = (inputs[chosen] == targets[chosen]).sum() / number
    replaced = 1 - masked - kept
    for share, expected in [(masked, 0.8), (kept, 0.1), (replaced, 0.1)]:
        assert abs(share - expected) < 4 * (expected * (1 - expected) / number) ** 0.5
    drawn = inputs[chosen & (inputs != MASK) & (inputs != targets)]
    assert drawn.max() < VOCABULARY
    assert np.abs(drawn.mean() / VOCABULARY - 0.5) < 0.05
    by_place = chosen.mean(0)
    assert by_place.min() > 0.25
    assert by_place.max() < 0.75


def test_the_key_decides(split):
    masking = Masking(0.15, None, True)
    one, again, other = (batch(split, masking, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert (one[1] != other[1]).any()


def test_a_sequence_has_two_halves_and_tells_whether_they_follow(split):
    windows = range(60)
    inputs, targets = batch(split, Masking(0.15, None, True), windows)
    first, second = Masking.halves(CONTEXT)
    assert first + second + 3 == CONTEXT
    assert (inputs[:, 0] == CLS).all()
    assert (inputs[:, [first + 1, -1]] == SEP).all()
    whole = np.where(targets >= 0, targets, inputs)
    follows = targets[:, 0] == NEXT
    assert set(targets[:, 0]) == {NEXT, RANDOM}
    assert 15 < follows.sum() < 45
    assert ((targets >= 0).sum(1) == 15).all()
    for window, row, next_one in zip(windows, whole, follows, strict=True):
        start = window * CONTEXT
        assert (row[1 : first + 1] == Stream(split).read(start, first)).all()
        b = row[first + 2 : -1]
        assert (np.diff(b) == 1).all()  # a stretch of the text, whose tokens count up
        assert (b[0] == start + first) == next_one


def test_ranks_and_steps_see_one_order_of_masks(split):
    cut = cut_for(Masking(0.15, None, False), VOCABULARY, (MASK, CLS, SEP))
    whole = Loader(split, CONTEXT, 4, seed=3, cut=cut)
    ranks = [Loader(split, CONTEXT, 4, seed=3, rank=rank, world=2, cut=cut) for rank in range(2)]
    for step in (5, 0):
        for ours, *theirs in zip(whole.batch(step), *(rank.batch(step) for rank in ranks), strict=True):
            assert torch.equal(ours, torch.stack(theirs, 1).flatten(0, 1))
    epoch = whole.windows // 4
    again = Loader(split, CONTEXT, whole.windows, seed=3, cut=cut)
    assert epoch
    one, two = (np.where(t >= 0, t, i) for i, t in (again.batch(0), again.batch(1)))
    assert sorted(map(tuple, one)) == sorted(map(tuple, two))  # every window once in each epoch
    assert (again.batch(0)[1] >= 0).sum() == (again.batch(1)[1] >= 0).sum()
    by_window = [{tuple(w): tuple(t) for w, t in zip(ws, again.batch(s)[1].tolist(), strict=True)}
                 for s, ws in ((0, one), (1, two))]  # fmt: skip
    assert any(by_window[0][w] != by_window[1][w] for w in by_window[0])  # masks are drawn anew


def test_an_evaluation_is_masked_in_the_same_way_each_time(split):
    cut = cut_for(Masking(0.15, None, True), VOCABULARY, (MASK, CLS, SEP))
    small, large = (evaluation_batches(split, CONTEXT, 800, micro, cut=cut) for micro in (1, 8))
    for part in range(2):
        assert torch.equal(torch.cat([b[part] for b in small]), torch.cat([b[part] for b in large]))
        assert torch.equal(torch.cat([b[part] for b in small]), torch.cat([b[part] for b in small]))
