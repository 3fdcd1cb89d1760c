"""The head's loss in blocks of a given size: the same as in one piece, in fp32 and under autocast, compiled too."""

import pytest
import torch
import torch.nn.functional as F

from models import build_model, head
from models.head import block_rows, head_loss

ROWS, WIDTH, VOCABULARY = 250, 32, 320


@pytest.fixture(autouse=True)
def in_one_piece_again():
    yield
    block_rows(0)


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_()
    return x, weight, torch.randint(VOCABULARY, (ROWS,), generator=generator)


def loss_and_gradients(rows: int, low: bool, head=head_loss):
    block_rows(rows)
    x, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = head(x, weight, targets)[0] / ROWS
    return loss, *torch.autograd.grad(3 * loss, [x, weight])


def exact():
    x, weight, targets = inputs()
    loss = F.cross_entropy(x.double() @ weight.double().T, targets)
    return loss, *torch.autograd.grad(3 * loss, [x, weight])


@pytest.mark.parametrize("rows", [1, 100, ROWS, 1000])
@pytest.mark.parametrize(("low", "tolerance"), [(False, 1e-6), (True, 1e-2)])
def test_blocks_change_nothing_but_rounding(rows, low, tolerance):
    blocks, plain = loss_and_gradients(rows, low), loss_and_gradients(0, low)
    for ours, stock, wide in zip(blocks, plain, exact(), strict=True):
        assert ours.dtype == stock.dtype == torch.float32
        error, usual = ((value - wide).norm() / wide.norm() for value in (ours, stock))
        assert error <= tolerance
        assert error <= 1.5 * usual + 1e-6  # no worse than in one piece


@pytest.mark.parametrize("low", [False, True])
def test_they_can_be_traced(low):
    traced = torch.compile(head_loss, backend="aot_eager", dynamic=False)
    for ours, eager in zip(loss_and_gradients(100, low, traced), loss_and_gradients(100, low), strict=True):
        assert (ours - eager).norm() <= 1e-3 * eager.norm()


def test_an_evaluation_takes_no_gradients_on_the_way(monkeypatch):
    model = build_model("gpt2", 0, layers=1, heads=1, width=8, context=8, vocabulary=64)
    tokens = torch.arange(8)[None]
    block_rows(2)
    assert "BlockwiseLoss" in type(model(tokens, tokens).sum.grad_fn).__name__
    monkeypatch.setattr(head.BlockwiseLoss, "apply", None)
    with torch.no_grad():
        model(tokens, tokens)


def test_a_negative_number_of_rows():
    with pytest.raises(ValueError, match="head_rows must be at least 0, not -1"):
        block_rows(-1)
