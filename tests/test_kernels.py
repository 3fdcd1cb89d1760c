"""The kernels that a run chooses: fp32 whatever they are, and the same choice every time."""

import pytest
import torch

from harness import kernels


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was():
    products, flash = torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled()
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cuda.enable_flash_sdp(flash)


@pytest.mark.parametrize("context", [128, 1024])
def test_chosen_products_are_exact_to_fp32(context):
    choice = kernels.choose_kernels("cpu", context)
    assert choice == kernels.choose_kernels("cpu", context)
    assert torch.backends.cuda.flash_sdp_enabled() == (choice == "default" or context > 256)
    a, b = torch.randn(512, 256), torch.randn(256, 384)
    exact = a.double() @ b.double()
    assert ((a @ b - exact).abs().max() / exact.abs().max()).item() < 1e-6  # bf16's would be near 1e-3


def test_products_that_round_to_bf16_are_refused(monkeypatch):
    monkeypatch.setattr(kernels, "_amd_with_avx512", lambda: True)
    monkeypatch.setattr(kernels, "_exact", lambda: False)
    assert kernels.choose_kernels("cpu", 128) == "default"
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.flash_sdp_enabled()


def test_the_exactness_check_sees_bf16(monkeypatch):
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda shape, value: full(shape, value).bfloat16().float())
    assert not kernels._exact()
