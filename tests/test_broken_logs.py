"""Broken foreign logs: one sentence with file and line, whatever is wrong with them."""

import json
import random

import pytest

from tests.foreign import (
    MODDED,
    TEXTS,
    foreign,
    write_mlflow_database,
    write_text,
    write_trainer_state,
    write_wandb_file,
)

POINTS = [(0, 10.8), (100, 5.1), (300, 3.9)]
MAPPED = ("step=step,val/loss=loss",)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.log", MODDED.replace("val_loss:5.10000", "val_loss:"), r"a.log, line 4, is no line of modded-nanogpt"),
        ("a.log", MODDED.replace("5.10000", "five"), r"a.log, line 4: val_loss is 'five', which is no number"),
        ("a.log", "nothing of interest\n", r"a.log is of no known format: known are"),
        ("a.log", "step:1/300 train_time:5.1s step_avg:1ms\n", r"a.log does not say what its validation loss is"),
        ("a.csv", "step,loss\n0,1\n1\n", r"a.csv, line 3, has 1 cells under 2 columns"),
        ("a.csv", "step,step\n0,1\n", r"a.csv, line 1, has the column 'step' twice"),
        ("a.csv", "step,loss\n", r"a.csv has no rows"),
        ("a.csv", "step,loss\n0.5,1\n", r"a.csv, line 2: step is 0.5, which is no number of updates"),
        ("a.csv", "step,cost\n0,1\n", r"a.csv has no column 'loss' for val/loss"),
        ("a.jsonl", '{"step": 0, "loss": 1}\n[]\n', r"a.jsonl, line 2, is '\[\]', not a row"),
        ("a.jsonl", '{"step": 0\n{"step": 1}\n', r"a.jsonl, line 1, is no JSON"),
        ("a.parquet", "PAR0", r"a.parquet is no parquet file"),
        ("trainer_state.json", '{"log_history": 3}', r"trainer_state.json is no trainer_state.json"),
        ("a.wandb", "hello", r"a.wandb is no .wandb file"),
        ("a.db", "hello", r"a.db is of no known format"),
    ],
)
def test_broken_input_names_file_and_line(tmp_path, name, text, sentence):
    path = write_text(tmp_path / name, text)
    with pytest.raises(ValueError, match=sentence):
        foreign(path, *(MAPPED if name[1:] in (".csv", ".jsonl", ".parquet") else ()))


def test_what_a_column_means_is_asked_for(tmp_path):
    path = write_text(tmp_path / "a.csv", "it,ce\n0,1\n")
    with pytest.raises(ValueError, match=r"give --map step=COLUMN,val/loss=COLUMN .* its columns are it, ce"):
        foreign(path)
    with pytest.raises(ValueError, match=r"val/loss and val/bpb are both of .*: choose one"):
        foreign(path, "step=it,val/loss=ce,val/bpb=ce")
    with pytest.raises(ValueError, match=r"'loss' is nothing that a run keeps"):
        foreign(path, "loss=ce")
    [run] = foreign(path, "step=it,val/ppl=ce")
    assert run.rows == [{"step": 0, "val/loss": 0.0}]


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    torn = MODDED[: MODDED.index("val_loss:3.9")]
    [run] = foreign(write_text(tmp_path / "a.log", torn))
    assert run.last == 200
    assert run.cut == "its last line, 6, is torn"


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_broken_text_never_raises_anything_but_a_sentence(tmp_path, name):
    """Cuts, swaps and noise at random places."""
    random_ = random.Random(name)
    path, sentences = tmp_path / "a.log", set()
    for _ in range(60):
        text = list(TEXTS[name])
        for _ in range(random_.randint(1, 6)):
            place = random_.randrange(len(text))
            if random_.random() < 0.5:
                text[place] = random_.choice("0123456789.,:|-=e \n\t\0%é")
            else:
                del text[place : place + random_.randint(1, 30)]
        path.write_text("".join(text))
        try:
            runs = foreign(path, bytes_per_token=4.0)
        except ValueError as error:
            sentences.add(str(error))
        else:
            assert all(run.evaluations for run in runs)
    assert sentences
    assert all("a.log" in sentence for sentence in sentences)


@pytest.mark.parametrize("name", ["a.wandb", "mlflow.db", "trainer_state.json", "a.csv", "a.jsonl"])
def test_broken_bytes_never_raise_anything_but_a_sentence(tmp_path, name):
    path = tmp_path / name
    rows = [{"_step": step, "loss": loss} for step, loss in POINTS]
    if name == "a.wandb":
        write_wandb_file(path, rows)
    elif name == "mlflow.db":
        write_mlflow_database(path)
    elif name == "trainer_state.json":
        write_trainer_state(path)
    elif name == "a.csv":
        path.write_text("_step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in POINTS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"mlflow.db": ["step=step,val/loss=val/loss"], "trainer_state.json": []}
    mapped = own.get(name, ["step=_step,val/loss=loss"])
    assert foreign(path, *mapped)
    whole, random_, sentences = path.read_bytes(), random.Random(0), set()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 8)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        path.write_bytes(bytes(data[: random_.randint(1, len(data))]))
        try:
            foreign(path, *mapped)
        except ValueError as error:
            sentences.add(str(error))
    assert sentences
    assert all(str(path) in sentence for sentence in sentences)


def test_a_perplexity_and_bytes_of_a_token_are_above_0(tmp_path):
    path = write_text(tmp_path / "run.csv", "step,ppl\n0,50000\n100,-1\n")
    with pytest.raises(ValueError, match=r"run\.csv, line 3: ppl is -1, and a perplexity is above 0"):
        foreign(path, "step=step,val/ppl=ppl")
    with pytest.raises(ValueError, match="--bytes-per-token -3: a token has a number of bytes above 0"):
        foreign(path, "step=step,val/bpb=ppl", bytes_per_token=-3)
