"""The symmetric Gram kernel, on a GPU, or anywhere in Triton's interpreter: TRITON_INTERPRET=1 python -m pytest."""

import os

import pytest
import torch

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
pytest.importorskip("triton", reason="Triton is not installed: its Gram kernel is not tested")
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("no CUDA device, nor TRITON_INTERPRET=1: the Gram kernel is not tested", allow_module_level=True)

from optimizers.gram_triton import average_gram_, gram_flops  # noqa: E402 (it imports triton)
from optimizers.kronecker import complete_  # noqa: E402


@pytest.mark.parametrize("n", [1, 5, 64, 130, 200])
@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_the_whole_product(n, transposed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 70, generator=generator)
    x = (x.T.contiguous().T if transposed else x).to(DEVICE)
    factor, whole = torch.zeros(n, n, device=DEVICE), torch.zeros(n, n, device=DEVICE)
    for _ in range(3):
        average_gram_(factor, x, 0.9)
        whole = 0.9 * whole + 0.1 * x @ x.T
    assert torch.allclose(factor, whole, atol=1e-5)
    assert torch.allclose(complete_(factor), whole, atol=1e-5)


def test_it_computes_little_more_than_half():
    assert gram_flops(1536, 384) < 0.53 * 2 * 1536**2 * 384
