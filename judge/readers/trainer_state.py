"""Reads trainer_state.json, which Hugging Face's Trainer leaves in its checkpoints."""

from pathlib import Path

from conventions.config_keys import flatten
from conventions.json_text import parse_json
from judge.readers.log import Line, Log, read_text, source_of
from judge.readers.table import value_of

FORMAT = "Hugging Face trainer_state.json"
MEANING = {"step": "step", "val/loss": "eval_loss", "train/loss": "loss", "lr": "learning_rate", "total": "max_steps"}
SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size", "trial_name")


def recognises(path: Path) -> bool:
    return path.is_file() and path.name.endswith("trainer_state.json")


def read(path: Path) -> list[Log]:
    """Return one log. `loss` is the mean since the last log, `eval_loss` in nats per token as the model computes it."""
    try:
        state = parse_json(read_text(path))
        history = state["log_history"]
        rows = [flatten(row) for row in history]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} is no trainer_state.json ({why}): it needs the list `log_history`") from None
    config = {key: state[key] for key in SETTINGS if state.get(key) is not None}
    total = {"max_steps": state["max_steps"]} if isinstance(state.get("max_steps"), int) else {}
    lines = [
        Line(0, {key: value_of(value) for key, value in {**row, **total}.items() if value is not None})
        for row in rows
        if "loss" in row or "eval_loss" in row
    ]
    notes = ("its train loss is the mean since the last log", "it keeps no time of its steps: its seconds are unknown")
    return [Log(str(path), source_of(path, FORMAT), lines, dict(MEANING), config, notes)]
