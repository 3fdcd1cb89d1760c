"""batch.micro=auto: the largest that fits of what is worth a try."""

import pytest
import torch

from harness.pass_sizes import CUDA_TOKENS, resolve_micro


def attempts(fits: int, sequences: int = 512, context: int = 1024) -> tuple[int, list[int]]:
    """What was chosen on a GPU that holds `fits` sequences, and what was tried."""
    tried = []

    def attempt(size: int, length: int) -> None:
        tried.append(size)
        assert length == context
        if size > fits:
            raise torch.cuda.OutOfMemoryError

    return resolve_micro("auto", sequences, 1, context, "cuda", attempt), tried


def test_on_a_gpu_what_is_larger_than_fills_it_is_not_tried():
    assert attempts(fits=1000) == (CUDA_TOKENS // 1024, [CUDA_TOKENS // 1024])
    assert attempts(fits=20) == (16, [64, 32, 16])
    assert attempts(fits=1, sequences=6, context=2 * CUDA_TOKENS) == (1, [1])


def test_not_even_one_fits():
    with pytest.raises(ValueError, match=r"batch\.micro: not even one sequence of 1024 tokens fits"):
        attempts(fits=0)


def test_a_cpu_tries_nothing():
    assert resolve_micro("auto", 64, 1, 1024, "cpu", lambda *_: pytest.fail("tried")) == 4
