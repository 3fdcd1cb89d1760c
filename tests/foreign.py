"""Short logs as other trainers write them, made up by hand."""

import json
import sqlite3
import struct
from pathlib import Path

from judge.readers import read
from judge.readers.series import ForeignRun, runs_in
from judge.readers.units import meaning_of, parse_map

MODDED = """\
        print0(f"step:{step}/{train_steps} val_loss:{val_loss:.5f} train_time:{ms}ms", console=True)
step:0/300 val_loss:10.82000 train_time:0.000s step_avg:nanms
step:1/300 train_time:5.100s step_avg:5100.10ms
step:100/300 val_loss:5.10000 train_time:20.500s step_avg:205.00ms
step:200/300 val_loss:4.20000 train_time:40.500s step_avg:202.50ms
step:300/300 val_loss:3.90000 train_time:60.500s step_avg:201.67ms
peak memory allocated: 30000 MiB
"""
TEXTS = {
    "modded-nanogpt": MODDED,
    "llm.c": """\
s:0 tel:10.9911
s:1 trl:10.9000 lr:0.000001 norm:15.20
s:100 tel:5.1000
s:100 eval:0.2513
s:200 trl:4.3000
s:200 tel:4.2000
s:300 tel:3.9000
""",
    "nanoGPT": """\
tokens per iteration will be: 491,520
step 0: train loss 10.9000, val loss 10.8000
iter 0: loss 10.9011, time 25000.10ms, mfu -100.00%
step 100: train loss 5.0500, val loss 5.1000
iter 110: loss 5.0011, time 245.31ms, mfu 38.20%
step 200: train loss 4.1000, val loss 4.2000
step 300: train loss 3.8000, val loss 3.9000
""",
    "nanochat": """\
Step 00000 | Validation bpb: 3.200000
step 00000/00300 (0.00%) | loss: 11.090355 | lrm: 1.00 | dt: 900.00ms | tok/sec: 1,024 | total time: 0.00m
Step 00100 | Validation bpb: 1.500000
step 00100/00300 (33.33%) | loss: 5.123456 | lrm: 1.00 | dt: 512.00ms | tok/sec: 1,024 | total time: 0.80m
Step 00300 | Validation bpb: 1.147600
""",
    "torchtitan": """\
[rank0]:[titan] 2026-01-01 - \x1b[31mstep:  1  \x1b[32mloss: 10.80000  grad_norm:  1.2345
[rank0]:[titan] 2026-01-01 - \x1b[31mstep: 100  \x1b[32mloss:  5.05000  grad_norm:  1.1
[rank0]:[titan] 2026-01-01 - \x1b[35mvalidate step: 100  \x1b[32mloss:  5.10000  \x1b[39mmemory:  1GiB
[rank0]:[titan] 2026-01-01 - \x1b[35mvalidate step: 300  \x1b[32mloss:  3.90000  \x1b[39mmemory:  1GiB
""",
    "LitGPT": """\
Epoch 1 | iter 4 step 1 | loss train: 10.800, val: n/a | iter time: 350.00 ms (step) remaining time: 1:00:00
Epoch 1 | iter 6 step 1 | loss train: 10.700, val: n/a | iter time: 350.00 ms remaining time: 1:00:00
Epoch 1 | iter 7 step 1 | loss train: 10.650, val: n/a | iter time: 350.00 ms remaining time: 1:00:00
Epoch 1 | iter 8 step 2 | loss train: 10.600, val: n/a | iter time: 350.00 ms (step) remaining time: 1:00:00
iter 400: val loss 5.1000, val time: 1200.00 ms
Epoch 1 | iter 404 step 101 | loss train: 5.090, val: 5.100 | iter time: 350.00 ms (step) remaining time: 0:30:00
iter 1200: val loss 3.9000, val time: 1200.00 ms
Final evaluation | val loss: 3.900 | val ppl: 49.402
""",
    "llm-optimizer-benchmark": """\
>Eval: Iter=0 (0.000 epochs) val_loss=10.800 val_pp=49020.800 val_acc=0.000000
Train: Iter=50 (0.005 epochs) train_loss=6.123 iter_dt=1.2e-01s lr=1.0e-03
>Eval: Iter=100 (0.010 epochs) val_loss=5.100 val_pp=164.022 val_acc=0.200000
>Eval: Iter=300 (0.030 epochs) val_loss=3.900 val_pp=49.402 val_acc=0.300000
""",
}


def foreign(path: Path, *pairs: str, bytes_per_token: float | None = None) -> list[ForeignRun]:
    """The runs of a file or folder, its columns named by `quantity=column` pairs."""
    chosen = parse_map(pairs)
    logs = read(str(path))
    return [run for log in logs for run in runs_in(log, meaning_of(log, chosen, bytes_per_token), bytes_per_token)]


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_trainer_state(path: Path) -> Path:
    history = [
        {"epoch": 0.1, "grad_norm": 1.5, "learning_rate": 1e-3, "loss": 5.3, "step": 50},
        {"epoch": 0.2, "eval_loss": 5.1, "eval_runtime": 3.0, "eval_samples_per_second": 100.0, "step": 100},
        {"epoch": 0.6, "eval_loss": 3.9, "eval_runtime": 3.0, "eval_samples_per_second": 100.0, "step": 300},
        {"epoch": 0.6, "step": 300, "total_flos": 1e15, "train_loss": 4.5, "train_runtime": 300.0},
    ]
    state = {"global_step": 300, "max_steps": 300, "log_history": history, "num_train_epochs": 1}
    return write_text(path, json.dumps(state))


def write_mlruns(folder: Path, name: str = "adamw-s1") -> Path:
    run = folder / "0" / "3ac05420"
    write_text(run / "meta.yaml", f"run_id: 3ac05420\nrun_name: {name}\nstatus: 3\n")
    write_text(run / "params" / "lr", "0.001")
    losses = {0: 10.8, 100: 5.1, 300: 3.9}
    lines = [f"{1700000000000 + 1000 * step} {loss} {step}\n" for step, loss in losses.items()]
    write_text(run / "metrics" / "val" / "loss", "".join(lines))
    write_text(run / "metrics" / "train" / "loss", "1700000050000 5.4 50\n")
    return folder


def write_mlflow_database(path: Path) -> Path:
    """The tables and columns of MLflow 3 that hold a run's values."""
    base = sqlite3.connect(path)
    base.execute("create table runs (run_uuid text, name text, status text, start_time bigint, lifecycle_stage text)")
    base.execute("create table params (key text, value text, run_uuid text)")
    base.execute(
        "create table metrics (key text, value double, timestamp bigint, run_uuid text, step bigint, is_nan boolean)"
    )
    base.execute("insert into runs values ('3ac05420', 'adamw-s1', 'FINISHED', 1, 'active')")
    base.execute("insert into params values ('lr', '0.001', '3ac05420')")
    for step, loss in {0: 10.8, 100: 5.1, 300: 3.9}.items():
        row = ("val/loss", loss, 1700000000000 + 1000 * step, "3ac05420", step, False)
        base.execute("insert into metrics values (?, ?, ?, ?, ?, ?)", row)
    base.commit()
    base.close()
    return path


def write_wandb_file(path: Path, rows: list[dict[str, float]], name: str = "adamw-s1") -> Path:
    """A .wandb file as the client writes it: a header, then records in blocks of 32 KiB, torn where a block ends."""
    from wandb.proto import wandb_internal_pb2 as protocol

    record = protocol.Record()
    record.run.display_name = name
    for key, value in {"lr": 0.001, "optimizer": {"name": "adamw"}, "_wandb": {"t": 1}}.items():
        update = record.run.config.update.add()
        update.key, update.value_json = key, json.dumps(value)
    records = [record.SerializeToString()]
    for row in rows:
        record = protocol.Record()
        record.history.step.num = int(row["_step"])
        for key, value in row.items():
            item = record.history.item.add()
            item.nested_key.append(key)
            item.value_json = json.dumps(value)
        records.append(record.SerializeToString())
    record = protocol.Record()
    record.exit.exit_code = 0
    records.append(record.SerializeToString())

    data = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for record in records:
        first, rest = True, record
        while rest or first:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            data += bytes(4) + struct.pack("<HB", len(piece), kind) + piece
            first = False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(data))
    return path
