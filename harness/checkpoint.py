"""Checkpoints are written aside and renamed, and verified by checksum; a run goes on from the newest good one.

checkpoints/step-00000100/ holds model.safetensors (the weights that are trained), optimizer.pt (tensors, read with
weights_only) and state.json (step, the state of each Stateful part by its key, checksums of all files; written last).
Where ranks share the optimizer's work out, optimizer-1.pt and so on hold the state of what the other ranks own.
Where an optimizer has the loss evaluated at other weights, averages say, evaluated.safetensors holds those.
"""

import copy
import hashlib
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from pydoc import locate
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from conventions.json_text import parse_json
from conventions.sentence import sentence
from harness.distributed import Ranks
from harness.sharding import Sharding


class Stateful(Protocol):
    """A part of a run, beside the weights and the optimizer, that goes into its checkpoints."""

    @property
    def key(self) -> str:
        """The part's key in state.json."""
        ...

    def state(self) -> Any:
        """Return the part's state, as JSON can hold it."""
        ...

    def restore(self, state: Any) -> None:
        """Take up a state that `state` returned in this process or in another."""
        ...


TRAINED, EVALUATED = "model.safetensors", "evaluated.safetensors"
QUEUE = "queue of the optimizer's"  # a key in the file, in the place of a deque
KEPT = 2  # the newest, and one before it in case the newest is damaged


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    eval_weights: AbstractContextManager[Any] | None = None,
    sharding: Sharding | None = None,
) -> None:
    """Write the checkpoint of `step` into `folder` and drop the ones before the last; atomic at any moment.

    Every rank calls it. The first writes all but the state of what others own.

    Args:
        eval_weights: inside it the model has the weights that are evaluated; None, or a nullcontext: always.
        sharding: of the optimizer; None: this process is alone.
    """
    sharding = sharding or Sharding(optimizer, [], Ranks(), None)
    ranks, first = sharding.ranks, sharding.ranks.first
    final = folder / f"step-{step:08d}"
    new = folder / f".new-{final.name}"
    try:
        if first:
            for cut_off in folder.glob(".new-*"):
                _remove(cut_off)
            new.mkdir(parents=True)
            _save_weights(model, new / TRAINED)
        ranks.agree(None)
        if first or sharding.active:
            _save_part(new / (f"optimizer-{ranks.rank}.pt" if ranks.rank else "optimizer.pt"), optimizer, sharding)
        if eval_weights is not None and not isinstance(eval_weights, nullcontext):
            with eval_weights:
                if first:
                    _save_weights(model, new / EVALUATED)
        ranks.each(None)
        if first:
            sums = {path.name: _checksum(path) for path in sorted(new.iterdir())}
            state = {"step": step, **state}
            (new / "state.json").write_text(json.dumps({"sha256": {**sums, "state": _digest(state)}, **state}))
            for path in (*new.iterdir(), new):
                _sync(path)
    except Exception as error:
        if first:
            _remove(new)
        if isinstance(error, (ValueError, ConnectionError)):
            raise
        # safetensors and torch wrap the disk's errors in their own
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({sentence(error)}): "
            "see that there is space, then go on with resume=true"
        ) from error
    if first:
        _remove(final)
        os.replace(new, final)
        _sync(folder)
        # Later ones are damaged, or the run would have gone on from them; they must not push out a good one.
        kept = [path for path in _found(folder) if path.name <= final.name][-KEPT:]
        for old in _found(folder):
            if old not in kept:
                _remove(old)
    ranks.agree(None)


def check_state(optimizer: torch.optim.Optimizer | None) -> None:
    """Raise a ValueError if the state of an optimizer, after a step, cannot be saved and read back; None: it can."""
    if optimizer is None:
        return
    file = io.BytesIO()
    try:
        torch.save(_without_queues(optimizer.state_dict()), file)
    except Exception as error:  # pickle raises almost anything
        raise ValueError(
            f"optimizer: its state cannot be saved to a checkpoint ({sentence(error)}): take another class"
        ) from error
    file.seek(0)
    _own_classes(file, optimizer)


def newest(folder: Path, config_hash: str | None = None) -> tuple[Path, dict[str, Any]] | None:
    """Find the newest checkpoint whose checksums hold, and its state; None where there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and not one of them is whole, or it is not of the config with that hash.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file where the checkpoints should be: move it away")
    broken = []
    for path in reversed(_found(folder)):
        try:
            state = parse_json((path / "state.json").read_text())
            sums = state.pop("sha256")
            whole = sums.pop("state") == _digest(state)
            whole = whole and all(_checksum(path / name) == digest for name, digest in sums.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            if config_hash not in (None, state.get("config_hash")):
                raise ValueError(f"{path} is the checkpoint of another config: delete it, or bring back the run's own")
            return path, state
        broken.append(path.name)
    if broken:
        raise ValueError(f"no checkpoint in {folder} is whole ({', '.join(broken)}): delete that folder to start over")
    return None


def evaluated_file(path: Path) -> tuple[Path, str]:
    """Return the file of a checkpoint with the weights that val/loss speaks of, and its SHA-256, as it was recorded."""
    file = path / (EVALUATED if (path / EVALUATED).is_file() else TRAINED)
    return file, parse_json((path / "state.json").read_text())["sha256"][file.name]


def states(parts: Iterable[Stateful]) -> dict[str, Any]:
    """Collect the state of each part, by its key."""
    return {part.key: part.state() for part in parts}


def restore(parts: Iterable[Stateful], state: dict[str, Any]) -> int:
    """Give each part its state back, and return the step; a part that the checkpoint does not know stays as it is."""
    for part in parts:
        if part.key in state:
            part.restore(state[part.key])
    return state.get("step", 0)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sharding: Sharding | None = None) -> None:
    """Put a checkpoint back, weights and the optimizer's state, each tensor in the dtype that it was saved in.

    However many ranks wrote it, each rank takes the state of what it owns now.
    """
    sharding = sharding or Sharding(optimizer, [], Ranks(), None)
    device = next(model.parameters()).device
    model.load_state_dict(load_file(path / TRAINED, device=str(device)))

    def place(storage: Any, location: str) -> Any:
        on_device = location.startswith("cuda") and device.type == "cuda"
        return storage.cuda(device.index) if on_device else storage

    saved: dict[str, Any] = {}
    for part in [path / "optimizer.pt", *sorted(path.glob("optimizer-*.pt"))]:
        with safe_globals(_own_classes(part, optimizer)):
            stored = sharding.keep(_with_queues(torch.load(part, map_location=place, weights_only=True)))
        saved = {**stored, "state": {**stored["state"], **saved["state"]}} if saved else stored
    with sharding.whole():
        optimizer.load_state_dict(copy.deepcopy(saved))
        _put_back(optimizer, saved)


def _save_part(path: Path, optimizer: torch.optim.Optimizer, sharding: Sharding) -> None:
    """Write what this rank keeps of the optimizer."""
    with sharding.whole():
        torch.save(_without_queues(sharding.keep(optimizer.state_dict())), path)
    _own_classes(path, optimizer)


def _put_back(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Put saved values in: load_state_dict casts what it takes for a parameter's shadow to the parameter's dtype."""
    if "parts" in saved:
        for part, state in zip(optimizer.parts, saved["parts"], strict=True):  # type: ignore[attr-defined]
            _put_back(part, state)
    if not {"param_groups", "state"} <= set(saved):  # a wrapper, which keeps its state in its own way
        return
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, p in zip(indices, parameters, strict=True):
        for key, value in saved["state"].get(index, {}).items():
            current = optimizer.state[p].get(key)
            same_place = isinstance(value, Tensor) and isinstance(current, Tensor)
            optimizer.state[p][key] = value.to(current.device) if same_place else value


def _without_queues(value: Any) -> Any:
    """Write queues, which weights_only cannot read, as mappings, anywhere in an optimizer's state."""
    if isinstance(value, deque):
        return {QUEUE: [_without_queues(each) for each in value], "maxlen": value.maxlen}
    if type(value) in (list, tuple):
        return type(value)(_without_queues(each) for each in value)
    return {key: _without_queues(each) for key, each in value.items()} if type(value) is dict else value


def _with_queues(value: Any) -> Any:
    """Undo what `_without_queues` did."""
    if type(value) in (list, tuple):
        return type(value)(_with_queues(each) for each in value)
    if type(value) is not dict:
        return value
    if QUEUE in value:
        return deque((_with_queues(each) for each in value[QUEUE]), maxlen=value["maxlen"])
    return {key: _with_queues(each) for key, each in value.items()}


def _save_weights(model: nn.Module, path: Path) -> None:
    save_file({name: t.detach().contiguous() for name, t in model.state_dict().items()}, path)


def _own_classes(file: Path | io.BytesIO, optimizer: torch.optim.Optimizer) -> list[Any]:
    """List the classes in an optimizer's saved state: they may be of its own package, which is trusted no less.

    Raises:
        ValueError: it holds something else, which weights_only would not read back.
    """
    packages = getattr(optimizer, "packages", {type(optimizer).__module__.partition(".")[0]}) - {"torch"}
    classes: list[Any] = []
    for name in get_unsafe_globals_in_checkpoint(file):
        cls = locate(name) if name.partition(".")[0] in packages else None
        if not isinstance(cls, type):
            raise ValueError(
                f"optimizer: {' and '.join(sorted(packages))} keeps {name} in its state, which cannot be read back "
                "from a checkpoint safely: take another class"
            )
        classes.append(cls)
    return classes


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Remove a file or a folder, if that can be done."""
    with suppress(OSError):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
