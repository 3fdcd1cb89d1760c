"""Programs of others, as bench_suite times them: track 3, nanoGPT's bench.py."""

import time

import numpy as np
import pytest

from scripts.suite import nanogpt_bench, track3

PEER = """
import sys, time
for step in range(1, 60):
    print(f"step:{step}/3375 train_time:{step / 2:.3f}s step_avg:500ms")
    if step == LAST:
        print("RuntimeError: no more"); sys.exit(1)
time.sleep(60)
"""


def test_track3s_loader_finds_a_batch_in_each_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(track3, "BATCH", 64)
    monkeypatch.setattr(track3, "VALIDATION", 20 * 64)
    track3.prepare(tmp_path)
    for split, batch in [("val", 20 * 64), ("train", (track3.SKIPPED + track3.TIMED + 1) * 64)]:
        (shard,) = (tmp_path / "data" / "fineweb10B").glob(f"fineweb_{split}_*.bin")
        header = np.fromfile(shard, "<i4", 3)
        assert list(header[:2]) == [20240520, 1]
        assert not batch + 1 >= header[2]  # its own words: another shard is opened then


def test_track3_is_read_from_its_lines_and_stopped(tmp_path):
    script = tmp_path / track3.SCRIPT
    script.parent.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="is no checkout of modded-nanogpt"):
        track3.find_script(tmp_path)
    script.write_text(PEER.replace("LAST", "999"))
    assert track3.program(tmp_path).rate(64, tmp_path, 30) == pytest.approx(2 * track3.BATCH)
    script.write_text(PEER.replace("LAST", "20"))
    with pytest.raises(ValueError, match="ended before update 55: RuntimeError: no more"):
        track3.tokens_per_second(script, 64, tmp_path, 30)
    script.write_text("import time; time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        track3.tokens_per_second(script, 64, tmp_path, 0.5)
    assert time.monotonic() - begun < 20


def test_bench_py_is_read_from_its_last_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no whole checkout of nanoGPT: it holds no bench\.py"):
        nanogpt_bench.program(tmp_path)
    for name in nanogpt_bench.FILES:
        (tmp_path / name).touch()
    program = nanogpt_bench.program(tmp_path)
    assert (program.model, program.micro_batch) == ("gpt2_125m", 12)
    lines = """
import pathlib, sys
batch = int(next(word for word in sys.argv if word.startswith("--batch_size=")).partition("=")[2])
assert "--real_data=False" in sys.argv and pathlib.Path("bench.py").is_file()
print("19/20 loss: 10.9")
print(f"time per iteration: {2.5 * batch:.4f}ms, MFU: 99.00%")
"""
    (tmp_path / "bench.py").write_text(lines)
    assert program.rate(16, tmp_path, 30) == pytest.approx(16 * 1024 / 0.040)
    (tmp_path / "bench.py").write_text("raise SystemExit('Torch not compiled with CUDA enabled')")
    with pytest.raises(ValueError, match=r"bench\.py ended without its time per iteration: Torch not compiled"):
        program.rate(16, tmp_path, 30)
