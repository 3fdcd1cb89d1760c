"""A request is what a constructor asks for by the names of its parameters, and no config can hold.

Lion(params, lr=...)                       parameters
LOMO(model, lr=...)                        the model
Adam_mini(named_parameters, dim, n_heads)  parameters with their names, and the shape of the model
WSAM(model, params, base_optimizer)        another optimizer, which it wraps
Ranger21(params, num_iterations)           the updates of the run
BSAM(params, num_data)                     the targets of the training data
SplitOpt(specs)                            classes, each with its parameters
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..roles import kinds

NAMES = {
    "params": ("params", "parameters", "param_groups"),
    "model": ("model", "module"),
    "named": ("named_parameters", "named_params"),
    "specs": ("specs",),
    "base": ("base_optimizer", "optimizer", "base", "inner_optimizer", "wrapped_optimizer"),
    "steps": ("num_iterations", "num_steps", "total_steps", "max_steps", "num_training_steps", "total_iterations",
              "total_iters", "t_total", "training_steps"),
    "data": ("num_data", "num_examples", "dataset_size", "data_size", "n_data"),
    "width": ("dim", "num_embeds", "hidden_size", "d_model"),
    "heads": ("num_heads", "n_heads"),
    "kv_heads": ("num_query_groups", "n_kv_heads"),
}  # fmt: skip
ALWAYS = ("params", "model", "named", "specs")  # no keyword of a config fills these
SHAPE = ("width", "heads", "kv_heads")  # for classes that ask for the model or for names: others mean something else
FLAG = re.compile(r"(use|is)_\w*muon\w*")


@dataclass(frozen=True)
class Request:
    """The names of a constructor's parameters, by what they ask for; and what else its signature tells.

    asked: keys of NAMES, each with the parameter that asks for it.
    required: those parameters that have no default.
    keywords: every named parameter of the constructor.
    open_ended: it takes any keyword.
    flag: the key of a parameter group by which the class tells hidden matrices from the rest; None: it has none.
    bases: ways in which it takes another optimizer: "instance", "class" or either.
    takes_closure: its step() has a parameter for the closure.
    pair: its step() returns a pair, and so expects one from the closure: outputs and loss.
    """

    asked: dict[str, str]
    required: frozenset[str]
    keywords: tuple[str, ...]
    open_ended: bool
    flag: str | None
    bases: tuple[str, ...]
    takes_closure: bool
    pair: bool

    @property
    def aside(self) -> list[str]:
        """Return the parameters that never come from a config."""
        return [name for kind, name in self.asked.items() if kind in (*ALWAYS, "base")]


@functools.cache
def request_of(constructor: type[torch.optim.Optimizer]) -> Request:
    """Read what a class asks for from its signatures, and from the words in its code."""
    parameters = inspect.signature(constructor).parameters
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    asked = {kind: name for kind, names in NAMES.items() for name in named if name in names}
    if not {*ALWAYS, "base"} & set(asked) and named:
        asked["params"] = next(iter(named))  # whatever its name: torch's classes take their parameters first
    if "model" not in asked and "named" not in asked:
        asked = {kind: name for kind, name in asked.items() if kind not in SHAPE}
    required = {name for name, p in named.items() if p.default is inspect.Parameter.empty}
    asked = {kind: name for kind, name in asked.items() if kind not in ("steps", "data") or name in required}
    stepping = list(inspect.signature(constructor.step).parameters)[1:]
    returned = typing.get_origin(inspect.signature(constructor.step).return_annotation)
    return Request(
        asked, frozenset(required), tuple(named), any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
        _flag(constructor), _bases(constructor, asked.get("base")), bool(stepping), returned is tuple,
    )  # fmt: skip


def shape_of(model: nn.Module) -> dict[str, int]:
    """Find a model's width, its heads and its key-value heads, as far as it tells them."""
    tables = [p for p, kind in kinds(model).items() if kind == "embedding"]
    shape = {"width": tables[0].shape[1]} if tables else {}
    for key in ("heads", "kv_heads"):
        numbers = [n for module in model.modules() if isinstance(n := getattr(module, key, None), int)]
        if numbers:
            shape[key] = numbers[0]
    return {"kv_heads": shape["heads"], **shape} if "heads" in shape else shape


def names_by_role(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return a model's parameters under names that tell what they are, where the model gives roles.

    Classes that want names look for words in them: "embed", "lm_head", "attn.proj", "mlp", "norm", "bias". A model's
    own names may have such a word where it means something else.
    """
    named = list(model.named_parameters())
    if not callable(getattr(model, "roles", None)):
        return named
    roles: Any = model.roles()  # type: ignore[operator]
    words = {"embedding": "embed", "positions": "embed.positions", "head": "lm_head", "vector": "norm"}
    words |= {"qkv": "attn.qkv", "projection": "attn.proj", "up": "mlp.up", "gate": "mlp.gate", "down": "mlp.down"}

    def word(p: nn.Parameter) -> str:
        role = roles[p]
        return words.get(getattr(role, "what", "")) or words.get(role.kind, role.kind)

    return [(f"{word(p)}.{i}.{name.rpartition('.')[2]}", p) for i, (name, p) in enumerate(named)]


def _flag(constructor: type) -> str | None:
    """Find the flag of parameter groups among the words that the methods of a class and of its bases use."""
    for each in constructor.__mro__:
        for method in vars(each).values():
            for word in _words(getattr(method, "__code__", None)):
                if FLAG.fullmatch(word):
                    return word
    return None


def _words(code: types.CodeType | None) -> Iterator[str]:
    for constant in code.co_consts if code else ():
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, types.CodeType):
            yield from _words(constant)


def _bases(constructor: Callable[..., Any], name: str | None) -> tuple[str, ...]:
    """Tell from an annotation whether an instance of the wrapped optimizer is wanted, or its class."""
    if name is None:
        return ()
    try:
        annotation = typing.get_type_hints(constructor.__init__).get(name)
    except (NameError, TypeError):
        annotation = None
    options = typing.get_args(annotation) if typing.get_origin(annotation) is not type else ()
    options = options or (annotation,)
    if any(inspect.isclass(each) and issubclass(each, torch.optim.Optimizer) for each in options):
        return ("instance",)
    if any(typing.get_origin(each) is type for each in options):
        return ("class",)
    return ("instance", "class")
