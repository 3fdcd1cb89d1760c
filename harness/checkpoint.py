"""Checkpoints: written aside and renamed, verified by checksum, the newest good one found again.

checkpoints/step-00000100/ holds model.safetensors, optimizer.pt (tensors, read with weights_only) and state.json (step,
clock, ledger, threads, checksums, written last).
"""

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.sentence import sentence

KEPT = 2  # the newest, and one before it in case the newest is damaged


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write the checkpoint of `step` into `folder` and drop the ones before the last; atomic at any moment."""
    final = folder / f"step-{step:08d}"
    new = folder / f".new-{final.name}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        save_file(
            {name: t.detach().contiguous() for name, t in model.state_dict().items()},
            new / "model.safetensors",
        )
        torch.save(optimizer.state_dict(), new / "optimizer.pt")
    except Exception as error:  # safetensors and torch wrap the disk's errors in their own
        shutil.rmtree(new, ignore_errors=True)
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({sentence(error)}): "
            "see that there is space, then go on with resume=true"
        ) from error
    sums = {name: _checksum(new / name) for name in ("model.safetensors", "optimizer.pt")}
    (new / "state.json").write_text(json.dumps({"step": step, "sha256": sums, **state}))
    for path in new.iterdir():
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(new, final)
    _sync(folder)
    for old in _found(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose checksums hold, and its state; None where there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and not one of them is whole.
    """
    broken = []
    for path in reversed(_found(folder)):
        try:
            state = json.loads((path / "state.json").read_text())
            if all(_checksum(path / name) == digest for name, digest in state["sha256"].items()):
                return path, state
        except (OSError, json.JSONDecodeError, KeyError):
            pass
        broken.append(path.name)
    if broken:
        raise ValueError(
            f"no checkpoint in {folder} is whole ({', '.join(broken)}): delete that folder to start over"
        )
    return None


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint back, weights and the optimizer's state, each tensor in the dtype that it was saved in."""
    device = next(model.parameters()).device
    model.load_state_dict(load_file(path / "model.safetensors", device=str(device)))

    def place(storage: Any, location: str) -> Any:
        on_device = location.startswith("cuda") and device.type == "cuda"
        return storage.cuda(device.index) if on_device else storage

    saved = torch.load(path / "optimizer.pt", map_location=place, weights_only=True)
    optimizer.load_state_dict(copy.deepcopy(saved))
    # load_state_dict casts what it takes for a parameter's shadow to the parameter's dtype: put the saved values in.
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, p in zip(indices, parameters, strict=True):
        for key, value in saved["state"].get(index, {}).items():
            current = optimizer.state[p].get(key)
            same_place = isinstance(value, Tensor) and isinstance(current, Tensor)
            optimizer.state[p][key] = value.to(current.device) if same_place else value


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
