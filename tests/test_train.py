"""The loop as a whole, in process: what is on the clock and what is not, and what a run leaves behind."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from conventions.config_keys import CONFIGS
from harness import checkpoint
from judge.records import read_run

SMALL = [
    *("model=gpt2_pico", "steps=6", "batch.tokens=256", "context=32", "log.every=1"),
    *("eval.every=2", "eval.tokens=256", "checkpoint.every=2"),
]


@pytest.fixture
def run(tmp_path):
    """Train with overrides; the run's folder, read back."""

    def start(*overrides: str, name: str = "run"):
        folder = tmp_path / name
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("train", [*SMALL, f"run_dir={folder}", *overrides])
        train.main(cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True)))
        return read_run(folder)

    return start


@pytest.fixture
def slowed(busy):
    def slowed(function, seconds):
        def slow(*arguments, **keywords):
            busy(seconds)
            return function(*arguments, **keywords)

        return slow

    return slowed


def test_evaluation_checkpoints_and_logging_are_off_the_clock(run, monkeypatch, slowed):
    monkeypatch.setattr(train.Loader, "batch", slowed(train.Loader.batch, 0.01))
    monkeypatch.setattr(train, "evaluate", slowed(train.evaluate, 0.3))
    monkeypatch.setattr(checkpoint, "save", slowed(checkpoint.save, 0.3))
    monkeypatch.setattr(train.RunFolder, "append", slowed(train.RunFolder.append, 0.1))
    slow = run(name="slow")
    assert slow.last("seconds/evaluate") == pytest.approx(4 * 0.3)
    assert slow.last("seconds/checkpoint") > 2 * 0.3 - 1e-6
    assert slow.last("seconds/log") > 6 * 0.1 - 1e-6
    assert slow.last("seconds/total") == pytest.approx(6 * 0.01)
    for row in slow.rows:
        parts = [row[f"seconds/{part}"] for part in ("data", "gradient", "curvature", "optimizer")]
        assert row["seconds/total"] == pytest.approx(sum(parts))


def test_a_slow_compiler_is_off_the_clock(run, monkeypatch, busy, slowed):
    monkeypatch.setattr(train.Loader, "batch", slowed(train.Loader.batch, 0.01))

    def compiler(graph, example_inputs):
        busy(0.3)
        return graph.forward

    torch._dynamo.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: compile_(model, backend=compiler, dynamic=False))
    result = run("compile=true")
    assert result.last("seconds/compile") > 0.3 - 1e-6
    assert result.last("seconds/total") == pytest.approx(6 * 0.01)
    assert result.manifest["resolved"]["compile"] is True
    torch._dynamo.reset()


def test_slow_data_is_on_the_clock(run, monkeypatch, slowed):
    monkeypatch.setattr(train.Loader, "batch", slowed(train.Loader.batch, 0.1))
    result = run()
    assert result.last("seconds/data") == result.last("seconds/total") == pytest.approx(6 * 0.1)


def test_a_row_describes_the_weights_after_its_steps(run):
    """Losses of rows against the weights of checkpoints, loaded by hand."""
    from safetensors.torch import load_file

    from data import load
    from data.loader import Loader
    from models import build_model

    result = run("steps=4", "checkpoint.every=2")
    batches = Loader(load("stdlib").train, 32, 8, seed=0)
    assert [row["step"] for row in result.rows] == [0, 1, 2, 3, 4]
    assert [row["tokens"] for row in result.rows] == [256 * step for step in range(5)]
    model = build_model("gpt2", 0, layers=2, heads=2, width=64, context=128, vocabulary=256)
    assert result.rows[0]["train/loss"] == pytest.approx(model(*batches.batch(0)).mean.item(), rel=1e-5)
    model.load_state_dict(load_file(result.folder / "checkpoints/step-00000002/model.safetensors"))
    assert result.rows[2]["train/loss"] == pytest.approx(model(*batches.batch(2)).mean.item(), rel=1e-5)
    assert "train/loss" not in result.rows[4]
    assert "val/loss" in result.rows[4]
    per_step = result.manifest["flops_per_token"] * 256
    assert [row["flops/total"] for row in result.rows] == [per_step * step for step in range(5)]


def test_what_a_run_leaves_behind(run):
    result = run("optimizer=sophia_g", "target_loss=5.5", "optimizer.lr=1e-3")
    assert result.status == "finished"
    row, manifest = result.rows[3], result.manifest
    expected = (
        "lr gradient/norm gradient/clipped update/weight_ratio memory/peak memory/state memory/state_per_parameter"
    )
    for key in [*expected.split(), "throughput/tokens_per_second", "optimizer/win_rate", "flops/curvature"]:
        assert row[key] is not None, key
    assert row["memory/state_per_parameter"] == 8  # momentum and curvature in fp32
    assert 0 < row["update/weight_ratio"] < 0.1
    assert manifest["data"]["fingerprint"]
    assert manifest["parameters"]["total"] > manifest["parameters"]["matrix"] > 0
    first = next(r for r in result.rows if r.get("val/loss") is not None and r["val/loss"] <= 5.5)
    assert manifest["target"]["step"] == first["step"]
    assert sorted(p.name for p in (result.folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


def test_what_an_update_consists_of(run):
    """With nothing but the hidden matrices moving, all that Muon makes as large as each other by construction."""
    row = run("optimizer=muon", "optimizer.adamw_lr=0", "optimizer.weight_decay=0").rows[3]
    shares = {key.removeprefix("update/share_"): v for key, v in row.items() if key.startswith("update/share_")}
    assert {kind for kind, share in shares.items() if share == 0} == {"embedding", "positions", "vectors"}
    assert sum(shares.values()) == pytest.approx(1)
    # An orthogonal (rows, columns) update has the square norm min(rows, columns), times Muon's max(1, rows / columns).
    for kind, size in {"qkv": 3, "projection": 1, "up": 4, "down": 1}.items():
        assert shares[kind] == pytest.approx(size / 9, rel=0.3), kind


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run):
    result = run("optimizer=sgd", "optimizer.lr=1e30", "grad_clip=null", "steps=50", "log.every=7", "eval.every=50")
    assert result.status == "diverged"
    step = int(result.manifest["error"].split("step ")[1].split(";")[0])
    assert 0 < step < 8  # found out at the next row, and dated to where it happened
    assert result.rows[-1]["train/loss"] is None
    assert "embedding.weight" in result.manifest["error"]


def test_a_step_that_never_calls_its_closure_is_refused(run, monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    with pytest.raises(ValueError, match="without calling its closure"):
        run("optimizer=sgd")
    (manifest,) = Path(run.__closure__[0].cell_contents).rglob("manifest.json")
    assert json.loads(manifest.read_text())["status"] == "failed"


def test_equal_seeds_equal_bits_other_seeds_others(run):
    one, same, other = run(name="a"), run(name="b"), run("seed=1", name="c")
    losses = [[row.get("train/loss") for row in r.rows] for r in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]
    assert one.rows[0]["val/loss"] != other.rows[0]["val/loss"]  # another initialisation, on the same windows
