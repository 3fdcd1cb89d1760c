"""Foreign logs: each format gives the same three evaluations, and what is broken gives one sentence."""

import csv
import json
import math
import sys
import types

import pytest

from judge.readers import formats, read, stdout
from tests.foreign import (
    MODDED,
    TEXTS,
    foreign,
    write_mlflow_database,
    write_mlruns,
    write_text,
    write_trainer_state,
    write_wandb_file,
)  # fmt: skip

POINTS = [(0, 10.8), (100, 5.1), (300, 3.9)]
MAPPED = ("step=step,val/loss=loss",)


def nearly(run, expected):
    assert [int(row["step"]) for row in run.evaluations] == [step for step, _ in expected]
    assert [row["val/loss"] for row in run.evaluations] == pytest.approx([loss for _, loss in expected], abs=1e-4)


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"nanochat"}))
def test_what_a_trainer_prints(tmp_path, name):
    [log] = read(str(write_text(tmp_path / "run.log", TEXTS[name])))
    assert log.source.format == name
    [run] = foreign(tmp_path / "run.log")
    ends = {step: row["val/loss"] for row in run.evaluations if (step := row["step"]) in (100, 300)}
    assert ends == {100: 5.1, 300: 3.9}
    assert run.last == 300


def test_every_printed_format_has_a_sample():
    assert {each.name for each in stdout.FORMATS} == set(TEXTS)
    assert set(TEXTS) < set(formats())


def test_modded_nanogpt_tells_its_clock_and_planned_length(tmp_path):
    [run] = foreign(write_text(tmp_path / "run.log", MODDED))
    assert run.total == 300
    assert [row["seconds/total"] for row in run.rows] == [0, 20.5, 40.5, 60.5]
    [older] = foreign(write_text(tmp_path / "ms.log", MODDED.replace("60.500s", "60500ms")))
    assert older.rows[-1]["seconds/total"] == 60.5


def test_bits_per_byte_take_the_bytes_of_a_token(tmp_path):
    path = write_text(tmp_path / "run.log", TEXTS["nanochat"])
    with pytest.raises(ValueError, match=r"bits per byte \(val_bpb\): give --bytes-per-token"):
        foreign(path)
    [run] = foreign(path, bytes_per_token=4.9)
    nearly(run, [(step, bpb * math.log(2) * 4.9) for step, bpb in ((0, 3.2), (100, 1.5), (300, 1.1476))])
    assert run.total == 300


def test_litgpt_counts_updates_and_not_micro_batches(tmp_path):
    [run] = foreign(write_text(tmp_path / "run.log", TEXTS["LitGPT"]))
    nearly(run, POINTS[1:])
    assert any("final evaluation" in note for note in run.notes)
    bare = "\n".join(line for line in TEXTS["LitGPT"].split("\n") if line.startswith("iter"))
    with pytest.raises(ValueError, match=r"bare.log, line 1: after which update iter 400 came"):
        foreign(write_text(tmp_path / "bare.log", bare))


def test_trainer_state(tmp_path):
    [run] = foreign(write_trainer_state(tmp_path / "checkpoint-300" / "trainer_state.json"))
    nearly(run, POINTS[1:])
    assert run.total == 300
    assert run.rows[0] == {"step": 50, "train/loss": 5.3, "lr": 1e-3}


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_mlflow(tmp_path, kind):
    store = write_mlruns(tmp_path / "mlruns") if kind == "folder" else write_mlflow_database(tmp_path / "mlflow.db")
    [run] = foreign(store, "step=step,val/loss=val/loss,elapsed=wall_time")
    nearly(run, POINTS)
    assert (run.name, run.config) == ("adamw-s1", {"lr": "0.001"})
    assert "seconds/total" not in run.rows[-1]
    [log] = read(str(tmp_path))
    assert log.source.sha256


def test_a_folder_of_mlflow_is_found_below_another(tmp_path):
    write_mlruns(tmp_path / "project" / "mlruns")
    assert [log.name for log in read(str(tmp_path))] == ["adamw-s1"]


def test_wandb_offline_file(tmp_path):
    rows = [{"_step": step, "train/loss": 5.0, "note": "x" * 3000} for step in range(40)]
    rows += [{"_step": 40 + step, "eval/loss": loss, "trainer": {"step": step}} for step, loss in POINTS]
    path = write_wandb_file(tmp_path / "run-abc.wandb", rows)
    [run] = foreign(path, "step=trainer.step,val/loss=eval/loss")
    nearly(run, POINTS)
    assert run.cut == ""
    assert (run.name, run.config) == ("adamw-s1", {"lr": 0.001, "optimizer.name": "adamw"})
    path.write_bytes(path.read_bytes()[:-40])
    [cut] = foreign(path, "step=trainer.step,val/loss=eval/loss")
    assert "middle of a record" in cut.cut
    assert cut.last == 100


def test_wandb_by_its_api(monkeypatch):
    asked = []

    class Run:
        id, name, state, config = "abc", "adamw-s1", "crashed", {"lr": 0.001, "_wandb": {}}

        def scan_history(self):
            yield from ({"_step": step, "eval": {"loss": loss}, "train/loss": None} for step, loss in POINTS)

    class Api:
        def runs(self, place):
            asked.append(place)
            return [Run()]

        def run(self, place):
            raise OSError("not found: <Response [404]>")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(Api=Api))
    [log] = read("wandb:me/project")
    assert (asked, log.name, log.config) == (["me/project"], "adamw-s1", {"lr": 0.001})
    assert [line.values["eval.loss"] for line in log.lines] == [loss for _, loss in POINTS]
    assert log.source.path == "wandb:me/project/abc"
    assert log.cut == "W&B calls it crashed"
    with pytest.raises(ValueError, match=r"wandb:me/project/xyz could not be read from W&B \(not found"):
        read("wandb:me/project/xyz")
    with pytest.raises(ValueError, match="is no address"):
        read("wandb:project")


def test_the_csv_that_wandb_exports(tmp_path):
    text = (
        '"Step","adamw - s1 - val/loss","adamw - s1 - val/loss__MIN","adamw - s1 - val/loss__MAX",'
        '"muon - val/loss","muon - val/loss__MIN","muon - val/loss__MAX"\n'
        '0,"10.8","10.8","10.8","","",""\n100,"5.1","5.1","5.1","5.0","4.9","5.2"\n300,"3.9","3.9","3.9","3.8","3.8","3.8"\n'
    )
    one, two = foreign(write_text(tmp_path / "wandb_export.csv", text), "step=Step,val/loss=val/loss")
    assert (one.name, two.name) == ("adamw - s1", "muon")
    nearly(one, POINTS)
    nearly(two, [(100, 5.0), (300, 3.8)])
    assert any("means over several" in note for note in two.notes)
    assert not any("means over several" in note for note in one.notes)


def test_algoperf_measurements(tmp_path):
    text = (
        "loss,global_step,validation/loss,accumulated_submission_time\n"
        "5.3,50,,\n,0,10.8,0.5\n,100,5.1,20.0\n4.0,250,,\n,300,3.9,60.0\n"
    )
    runs = foreign(write_text(tmp_path / "measurements.csv", text.replace("5.3,50,,\n", "")))
    nearly(runs[0], POINTS)
    assert runs[0].rows[-1]["seconds/total"] == 60
    ppl = text.replace("validation/loss", "validation/ppl").replace("5.3,50,,\n", "")
    [run] = foreign(write_text(tmp_path / "ppl.csv", ppl))
    assert run.evaluations[-1]["val/loss"] == pytest.approx(math.log(3.9))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_any_table_by_its_columns(tmp_path, suffix):
    path = tmp_path / f"curve.{suffix}"
    rows = [{"step": step, "loss": loss, "s": step / 5} for step, loss in POINTS]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow.parquet")
        import pyarrow as arrow

        pyarrow.write_table(arrow.Table.from_pylist(rows), path)
    else:
        import gzip

        with (gzip.open if suffix.endswith("gz") else open)(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    [run] = foreign(path, *MAPPED, "seconds=s")
    nearly(run, POINTS)
    assert run.rows[-1]["seconds/total"] == 60


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3000):  # more than TensorBoard keeps unless asked
            writer.add_scalar("train/loss", 5.0, step)
        for step, loss in POINTS:
            writer.add_scalar("val/loss", loss, step)
    [run] = foreign(tmp_path, "step=step,val/loss=val/loss,train/loss=train/loss")
    nearly(run, POINTS)
    assert len(run.rows) == 3000


def test_an_absent_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    path = write_text(tmp_path / "events.out.tfevents.1.host", "")
    with pytest.raises(ValueError, match="needs tensorboard: pip install tensorboard"):
        read(str(path))
