"""The search for a class's manner: candidates are tried in turn, and the first that steps is asked the other questions.

What a tryout cannot tell stays unknown: a class of another package may raise anything, anywhere.
"""

import atexit
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..base import switches_weights
from ..wrapped import wrap
from .manner import Manner
from .tryout import Tryout, heeds_decay, heeds_schedule, place_of, switches, uses_earlier_gradient, writes_rate

Build = Callable[[Manner, nn.Module], torch.optim.Optimizer]
REST = "{0}.rest._target_=torch.optim.AdamW {0}.rest.lr=1e-3"
BASE = "{0}.base._target_=torch.optim.AdamW {0}.base.lr=1e-3"


def working_manner(entry: Any, build: Build, device: str, keywords: Mapping[str, Any]) -> Manner:
    """Find the first manner in which two steps of a tryout succeed.

    Raises:
        ValueError: there is none; the sentence has the reason, and the remedy where one is known.
    """
    check_sections(entry, keywords)
    first: Exception | None = None
    for candidate in _candidates(entry, keywords):
        manner: Manner | None = candidate
        while manner is not None:
            try:
                _stepped(build, manner, device)
            except Exception as error:
                first = first or error
                manner = _changed(manner, error)
                continue
            if manner.params.startswith("hidden") and not keywords.get("rest"):
                raise ValueError(
                    f"{entry.key}._target_={entry.target} takes hidden matrices alone: give the other parameters to "
                    f"another class, as in {REST.format(entry.key)}"
                )
            return manner
    assert first is not None
    raise _named(entry, first, keywords) from first


def find_manner(entry: Any, manner: Manner, build: Build, device: str) -> Manner:
    """Complete a manner that works by what further tryouts tell."""
    own = "it is handed the number of updates" if "steps" in entry.request.asked else ""
    own = "it averages its weights" if "weight_lr_power" in entry.request.keywords else own
    if switches_weights(entry.constructor):
        works = bool(_tell(lambda: switches(_stepped(build, manner, device))))
        manner = replace(manner, switches=works)
        own = "it averages its weights" if works else own
    if manner.takes_closure:
        before = _tell(lambda: uses_earlier_gradient(lambda on: build(manner, on), device))
        manner = replace(manner, gradient_before=bool(before))
    if not own and _tell(lambda: writes_rate(_stepped(build, manner, device))):
        own = "it changes the rate in its groups"
    heeds = _tell(lambda: heeds_schedule(lambda on: build(manner, on), device))
    return replace(manner, heeds_schedule=heeds, own_schedule=own)


def check_changes(
    entry: Any, build: Callable[[nn.Module], torch.optim.Optimizer], device: str, changes: Mapping[str, Any]
) -> None:
    """Raise a ValueError unless a class steps with the changes to its step, see optimizers/wrapped.py."""
    try:
        Tryout(lambda on: wrap(build(on), on, **changes), device).steps(2)
    except Exception as error:
        raise _named(entry, error, changes) from error
    key = next((key for key in ("cautious_decay", "hyperball") if changes.get(key)), None)
    decays = any(group.get("weight_decay") for group in Tryout(build, device).optimizer.param_groups)
    if key and decays and _tell(lambda: heeds_decay(build, device)) is False:
        raise ValueError(
            f"{key} switches the weight decay of groups off, and {entry.key}._target_={entry.target} decays whatever "
            f"these say: give {entry.key}.weight_decay=0, or another class"
        )


def check_sections(entry: Any, keywords: Mapping[str, Any]) -> None:
    """Raise a ValueError unless a class has what it wraps, and has no section that it has no use for."""
    request, head = entry.request, f"{entry.key}._target_={entry.target}"
    base, rest, hidden = (keywords.get(name) or {} for name in ("base", "rest", "hidden"))
    if "specs" in request.asked:
        if "_target_" not in base or "_target_" not in rest:
            raise ValueError(
                f"{head} joins two classes: give {entry.key}.base._target_, the class for the hidden matrices, and "
                f"{entry.key}.rest._target_, the class for the rest, both of its own package"
            )
        return
    if "base" in request.asked and not base and request.asked["base"] in request.required:
        raise ValueError(f"{head} wraps another optimizer: give {BASE.format(entry.key)}")
    if base and ("base" not in request.asked or "_target_" not in base):
        needs = "wants a class, its _target_" if "base" in request.asked else "is for classes that wrap an optimizer"
        raise ValueError(f"{head}: {entry.key}.base {needs}")
    lost = [key for key in keywords if key not in (*request.keywords, "base", "rest", "hidden")]
    if base and lost and request.bases[0] == "instance":  # it would take the key, and do nothing with it
        raise ValueError(f"{entry.key}.{lost[0]} is for what {head} wraps: give {entry.key}.base.{lost[0]}")
    beside = [name for name, each in (("rest", rest), ("hidden", hidden)) if each and "_target_" not in each]
    if beside and not request.flag:
        raise ValueError(
            f"{entry.key}.{beside[0]} without a _target_ is for classes whose groups tell hidden matrices from the "
            f"rest, and {entry.target} is none: give {REST.format(entry.key)}"
        )


def _candidates(entry: Any, keywords: Mapping[str, Any]) -> Iterator[Manner]:
    request, rest = entry.request, keywords.get("rest") or {}
    shapes: tuple[Any, ...] = ("groups", "list", "hidden groups", "hidden list")
    if "params" not in request.asked:
        shapes = ("groups",)
    elif "_target_" in rest:
        shapes = ("hidden groups", "hidden list")
    elif request.flag:
        shapes = ("flags", *shapes)
    bases: tuple[Any, ...] = (request.bases if keywords.get("base") else ()) or (None,)
    for base, shape in itertools.product(bases, shapes):
        yield Manner(shape, base, request.takes_closure, pair=request.pair)


def _changed(manner: Manner, error: Exception) -> Manner | None:
    """Return the manner to try after an error: the same after a remedy, or one with a graph; None: another one."""
    if "process group has not been initialized" in str(error) and not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)  # for classes made for many ranks
        atexit.register(dist.destroy_process_group)  # gloo's threads, left alive, would abort the interpreter's end
        return manner
    if "does not require grad" in str(error) and not manner.graph:
        return replace(manner, graph=True)
    return replace(manner, gradient_exists=True) if manner.takes_closure and not manner.gradient_exists else None


def _stepped(build: Build, manner: Manner, device: str) -> Tryout:
    tryout = Tryout(lambda on: build(manner, on), device)
    tryout.steps(2)
    return tryout


def _tell(question: Callable[[], bool]) -> bool | None:
    """Ask a question of a tryout; None where it fails."""
    try:
        return question()
    except Exception:
        return None


def _named(entry: Any, error: Exception, keywords: Mapping[str, Any]) -> Exception:
    """Make the sentence on a class that no manner suits. What speaks of a keyword already names the key."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and (
        text.split(" ", 1)[0] in (*keywords, "decay_embeddings") or text.startswith(entry.key)
    ):
        return error
    cause = f"{type(error).__name__}{': ' if text else ''}{text}"
    return ValueError(
        f"{entry.key}._target_={entry.target} cannot run here: on a small tryout model it ends in {cause} "
        f"({place_of(error)}); HALFSTEP_TRACEBACK=1 shows the way there"
    )
