"""A manner is how a class wants to be handed its parameters and called: what no signature tells for certain."""

from dataclasses import dataclass
from typing import Literal

Shape = Literal["groups", "flags", "list", "hidden groups", "hidden list"]


@dataclass(frozen=True)
class Manner:
    """The manner of a class, as a tryout of it came out (see tryout.py).

    params: "groups" by weight decay; "flags", groups that tell hidden matrices from the rest; "list", all in one list;
        "hidden groups" and "hidden list", the hidden matrices alone.
    base: whether it takes the optimizer that it wraps as an instance or as a class; None: it wraps none.
    takes_closure: its step() takes a closure.
    gradient_before: its step(closure) uses the gradient that is there before it calls the closure, as SAM does.
    gradient_exists: it fails in its first step unless there is a gradient, of whatever value.
    graph: it differentiates the gradient once more by itself, and so needs the gradient's graph.
    pair: it expects a pair from the closure.
    switches: it keeps two sets of weights, and its eval() and train() work.
    heeds_schedule: its updates depend on the rate of later steps; None: not known.
    own_schedule: why a schedule of ours comes on top of one of its own; "": no sign of one.
    """

    params: Shape = "groups"
    base: Literal["instance", "class"] | None = None
    takes_closure: bool = True
    gradient_before: bool = False
    gradient_exists: bool = False
    graph: bool = False
    pair: bool = False
    switches: bool = False
    heeds_schedule: bool | None = None
    own_schedule: str = ""

    def shown(self, flag: str | None) -> str:
        """Say which parameters the class is handed, where they are not all of them in groups."""
        words = {"list": "one list of all parameters", "flags": f"groups with {flag}"}
        words |= {"hidden groups": "hidden matrices", "hidden list": "one list of hidden matrices"}
        return words.get(self.params, "")

    @property
    def plain(self) -> bool:
        """Tell whether the class steps as torch's own do, on an Objective in the place of the closure."""
        return self.takes_closure and not (self.gradient_before or self.gradient_exists or self.graph or self.pair)
