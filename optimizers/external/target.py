"""A target is the path of a class in another package, `package.module.Class`."""

import difflib
import inspect
import os
import sys
from collections.abc import Sequence

import torch

KEY = "optimizer._target_"  # of a config


def load_class(target: str | None, allow_targets: Sequence[str], key: str = KEY) -> type[torch.optim.Optimizer]:
    """Import the optimizer class that a target names.

    Args:
        allow_targets: packages whose code is trusted; a target below none of them is not imported.
        key: of the config, for the sentences.

    Raises:
        ValueError: the target names no class, is not trusted, is not installed, or is no optimizer.
    """
    if not isinstance(target, str) or not target.rpartition(".")[0] or not target.rpartition(".")[2]:
        raise ValueError(f"{key} must name a class: {key}=package.module.Class")
    if not any(target == prefix or target.startswith(prefix + ".") for prefix in allow_targets):
        raise ValueError(
            f"{key}={target} is not under allow_targets={list(allow_targets)}: "
            f"if you trust it, add its package, as in 'allow_targets=[{target.split('.')[0]}]'"
        )
    module_name, _, class_name = target.rpartition(".")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # for a class in a file beside which the command is given; packages come first
    try:
        module = __import__(module_name, fromlist=[class_name])
    except ModuleNotFoundError as error:
        remedy = "install its package, or name the folder of its file in PYTHONPATH"
        raise ValueError(f"{key}={target}: there is no module {error.name}; {remedy}") from error
    found = getattr(module, class_name, None)
    if is_optimizer(found):
        return found  # type: ignore[return-value]
    near = [name for name in dir(module) if is_optimizer(getattr(module, name))]
    close = difflib.get_close_matches(class_name, near, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"{key}={target} is no torch.optim.Optimizer class{hint}")


def is_optimizer(thing: object) -> bool:
    """Tell whether something is a class of optimizers, and not their base class."""
    base = torch.optim.Optimizer
    return inspect.isclass(thing) and issubclass(thing, base) and thing is not base
