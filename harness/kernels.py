"""The choice of torch's CPU kernels for a run. All of them are fp32; some are twice as fast as others."""

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def choose_kernels(device: str, context: int) -> str:
    """Set this process's kernels for fp32 products and for attention: "onednn" or torch's "default".

    torch hands fp32 products to MKL, which keeps its AVX-512 kernels for Intel's processors. oneDNN's serve AMD's
    too: 500 GFLOP/s against 225 on two Zen 5 cores. torch takes them only under "medium", where they may round their
    inputs to bf16. oneDNN does so on processors with AMX and never without; a product that bf16 would spoil makes sure.

    The choice depends on the processor and the context alone, so a run that is resumed computes the same bits.
    """
    onednn = False
    if device == "cpu" and _amd_with_avx512():
        torch.set_float32_matmul_precision("medium")
        onednn = _exact()
    if not onednn:
        torch.set_float32_matmul_precision("highest")
    # The fused attention multiplies small tiles, where oneDNN is slow: up to this length plain products win.
    torch.backends.cuda.enable_flash_sdp(not (onednn and context <= 256))  # the switch is the CPU's too
    if device == "cpu":
        _keep_memory()
    return "onednn" if onednn else "default"


def _amd_with_avx512() -> bool:
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "AuthenticAMD" in processor and "avx512f" in processor and "amx" not in processor


def _keep_memory() -> None:
    """Let malloc keep what is freed: large tensors else get fresh pages in every pass, zeroed one by one.

    Worth 15 to 20 % of a step whose logits are large, for as much more memory. Elsewhere than on glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def _exact() -> bool:
    """Say whether a product of (1 + 2^-12), which bf16 rounds to 1, comes out exact."""
    x = torch.full((256, 256), 1 + 2**-12)
    return bool((x @ torch.ones(256, 256) == 256 + 2**-4).all())
