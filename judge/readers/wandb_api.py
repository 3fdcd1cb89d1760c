"""Reads runs from W&B through its API: wandb:ENTITY/PROJECT for all of a project, wandb:ENTITY/PROJECT/RUN for one."""

import hashlib
import json
from typing import Any

from conventions.config_keys import flatten
from judge.readers.log import Line, Log, Source, optional
from judge.readers.wandb_file import numbers

FORMAT = "W&B (wandb:...)"
PREFIX = "wandb:"


def read(address: str) -> list[Log]:
    """Return a log for each run: every row of its history, not the sample that W&B's pages show, and its config.

    The checksum is of the rows, for there is no file. Raises ValueError where W&B cannot be
    reached or knows no such run.
    """
    wandb = optional("wandb", f"{address} needs W&B's client")
    place = address.removeprefix(PREFIX)
    if place.count("/") not in (1, 2) or not all(place.split("/")):
        raise ValueError(f"{address} is no address: give wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/RUN")
    try:
        api = wandb.Api()
        runs = [api.run(place)] if place.count("/") == 2 else list(api.runs(place))
        logs = [_log(address, run) for run in runs]
    except Exception as error:  # the client's own, of many kinds
        why = " ".join(str(error).split())[:120]
        raise ValueError(f"{address} could not be read from W&B ({why}): is it right, and are you logged in?") from None
    if not logs:
        raise ValueError(f"{address} holds no run")
    return logs


def _log(address: str, run: Any) -> Log:
    rows = [dict(row) for row in run.scan_history()]  # without keys: with them it skips rows that lack one
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
    lines = [Line(0, numbers(flatten(row))) for row in rows]
    config = {key: value for key, value in flatten(dict(run.config)).items() if not key.startswith("_")}
    place = address if address.count("/") == 2 else f"{address}/{run.id}"
    cut = "" if run.state == "finished" else f"W&B calls it {run.state}"
    return Log(str(run.name or run.id), Source(place, FORMAT, digest), lines, {}, config, cut=cut)
