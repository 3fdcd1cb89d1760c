"""A run may begin with the weights of another: of a run's folder, or of a folder of transformers.

Phases are made so: sequences of 128 tokens first, then another run of 512 that begins where the first one ended.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from conventions.paths import expanded
from conventions.sentence import sentence
from harness.checkpoint import evaluated_file, newest

Weights = dict[str, Tensor]
Provenance = dict[str, Any]


def initial_weights(
    source: str | None, read_folder: Callable[[Path], Weights], known: Provenance | None = None
) -> Callable[[nn.Module], Provenance | None]:
    """Check the key init_from; return a function that puts the weights into a model and says where they are from.

    Args:
        source: a run's folder or one of transformers; None: the model keeps its own weights.
        read_folder: returns the weights of a folder of transformers, by our names.
        known: what the manifest says of a run that goes on from a checkpoint: its weights replace any others.

    Raises:
        FileNotFoundError, ValueError: the folder holds no weights; the function, that they are not of this model.
    """
    if source is None or known is not None:
        return lambda model: known
    folder = expanded(source, "init_from").absolute()
    if (folder / "config.yaml").is_file():
        checkpoint = newest(folder / "checkpoints")
        if checkpoint is None:
            raise FileNotFoundError(f"init_from={source} holds no checkpoint: let that run come to one")
        path, state = checkpoint
        file, digest = evaluated_file(path)  # which `newest` has just checked
        facts = {"kind": "run", "step": state["step"], "config_hash": state.get("config_hash"), "sha256": digest}

        def read() -> Weights:
            return load_file(file)
    elif (folder / "config.json").is_file():
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        facts = {"kind": "transformers", "sha256": _digest(folder / "config.json", *files)}

        def read() -> Weights:
            return read_folder(folder)
    else:
        raise FileNotFoundError(
            f"init_from={source} is no folder of a run (config.yaml) and none of transformers (config.json)"
        )

    def put(model: nn.Module) -> Provenance:
        weights = read()
        _check(source, weights, model)
        model.load_state_dict(weights)
        return {"source": str(folder), **facts}

    return put


def _check(source: str, weights: Weights, model: nn.Module) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"init_from={source} is of another model: its {name} is {theirs.get(name, 'missing')}, where this "
                f"model's is {ours.get(name, 'missing')}; give the model keys of that run"
            )


def _digest(*files: Path) -> str:
    """Return the SHA-256 of the files, one after another."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with open(file, "rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise FileNotFoundError(f"init_from: {file} cannot be read ({sentence(error)})") from None
    return digest.hexdigest()
