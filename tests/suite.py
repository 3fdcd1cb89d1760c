"""bench_suite without its processes: sides that live in this one, on the CPU."""

import json
from typing import Any

import pytest
import torch

from models.head import block_rows
from scripts.bench import side
from scripts.suite import curves, match, start

START = [{"model": "gpt2_pico", "cache": cache, "first_update_seconds": 9.0, "compile_seconds": None}
         for cache in ("cold", "warm")]  # fmt: skip
TINY = ["--rehearse", "--minutes", "2", "--device", "cpu", "--seconds", "0.01"]


class Here:
    """A side without its process."""

    made: list[Any] = []  # noqa: RUF012
    broken: tuple[int, ...] = ()  # head_rows that do not run
    most = 10**9  # sequences per pass that fit

    def __init__(self, make):
        self.contender = make()
        Here.made.append(self.contender)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        block_rows(0)

    def ask(self, seconds, function, *arguments):
        if seconds <= 0:
            raise TimeoutError
        if self.contender.setting.head_rows in Here.broken:
            raise ValueError("RuntimeError: it cannot")
        if self.contender.setting.micro > Here.most:
            raise ValueError("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        side.contender = self.contender
        return function(*arguments)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    monkeypatch.setattr(match, "Side", Here)
    monkeypatch.setattr(match, "best_products", lambda setting: 1e12)
    monkeypatch.setattr(start, "measure_start", lambda *_: START)
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(Here, "made", [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "device"
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_flash_sdp(True)


def read(folder, name):
    return json.loads((folder / name).read_text())
