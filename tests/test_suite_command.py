"""bench_suite as a person calls it: bad input, and each part's own command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bench_suite
from tests.command import environment


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--part", "train", "--minutes", "0"], "--minutes must be above 0, not 0"),
        (["--part", "train", "--tokens", "1000"], "--tokens must be a multiple of --context=128, 896 for one"),
        (["--part", "train", "--model", "gpt2_piko"], "--model: there is no gpt2_piko; did you mean gpt2_pico"),
        (
            ["--part", "train", "--variants", "depth=3"],
            "depth is none of compile, attention, optimizer, micro, head_rows",
        ),
        (
            ["--part", "train", "--variants", "attention=math"],
            "must be auto, flash, cudnn, efficient, fa3, fa4, not math",
        ),
        (["--part", "train", "--variants", "nanogpt:optimizer=soap"], "optimizer is halfstep's alone"),
        (["--part", "train", "--variants", "nanogpt:micro=2"], "are nanoGPT's: give --nanogpt"),
        (["--part", "train", "--variants", "micro=0"], "micro must be a whole number of at least 1"),
        (["--part", "train", "--variants", "micro=3"], "micro=3 does not divide the 4 sequences of an update"),
        (["--part", "train", "--nanogpt", "nowhere"], "nowhere is no checkout of nanoGPT: it holds no model.py"),
        (["--part", "optimizers", "--only", "loin"], "no optimizer loin is registered; did you mean lion"),
    ],
)
def test_bad_input_is_one_sentence(given, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        bench_suite.main(["--rehearse", "--minutes", "2", "--device", "cpu", "--output", str(tmp_path / "new"), *given])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_exact_commands_on_a_tiny_model(tmp_path, monkeypatch):
    """Every part as a person calls it, its processes and all."""
    root = Path(bench_suite.__file__).parents[1]
    for part, only in [("train", []), ("optimizers", ["--only", "lion"])]:
        line = [sys.executable, "-m", "scripts.bench_suite", "--part", part, "--rehearse", *only, "--minutes", "9"]
        process = subprocess.run(
            [*line, "--output", str(tmp_path / "device")], cwd=tmp_path, text=True, capture_output=True,
            env=environment(PYTHONPATH=str(root)),
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert "nothing is left of this part" in process.stdout
    start = json.loads((tmp_path / "device" / "throughput.json").read_text())["start"]
    assert [row["cache"] for row in start] == ["cold", "warm"]
    assert 0 <= start[1]["input_share"] < 1
