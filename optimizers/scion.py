"""Scion: each parameter steps by the extreme point of a norm's ball (Pethick et al., arXiv 2502.07529, algorithm 2).

    m <- b m + (1 - b) g
    w <- (1 - lr wd) w - lr rho s U(m)

    hidden matrix      s = sqrt(rows / columns),  U = NewtonSchulz(m)        rho = radius
    output head        s = 1 / columns,           U = sign(m)                rho = head_radius
    other tables       s = 1,                     U = sign(m)                rho = embedding_radius
      or with embedding_norm=column               U = m / rms of each row
    vectors            s = 1,                     U = m / rms                rho = vector_radius, wd = 0

Of all matrices in the unit ball of a norm U is the one with the largest product with m; the norms are the spectral
one, the largest entry, the largest row. `s` makes them norms of what a layer does to vectors of root mean square 1, so
that rates carry over from width to width. With wd = 1 the weights are an average of such points, and stay in the ball
of radius rho: the authors' constrained form, whose decay is the learning rate itself. wd = 0 is their unconstrained
form. Between the two the ball has the radius rho / wd.

An embedding that is the output head too takes the head's step, as in the authors' script for GPT-2
(LIONS-EPFL/scion, examples/modded-nanogpt/train_gpt_scion.py), whose three layers for queries, keys and values are
three matrices here too. One that is not takes the step of the other tables, as in examples/shallow-nanogpt/model.py;
so do learned positions, which their models have not. Neither have these biases or gains: the rule for those is the one
of their scion.py for biases (`BiasRMS`), without the decay, as everywhere in this package. What they call `momentum`,
.1, is 1 - b. There the gradient is not clipped, and the rate does not warm up and falls linearly at last, which is for
the run to choose. Their models have activations sqrt(2) times as large, and in the other example the first weights lie
on the spheres of their balls.
"""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn

from .checks import check_at_least, check_common
from .kernels import Number, average_, descend_, kernel
from .param_groups import Group, by_kind
from .registry import register
from .roles import TABLES, kinds
from .spectral import Spectral
from .treatment import Treatment, treatment

EPS = 1e-8  # added to a root mean square


@kernel
def update_by_sign(
    p: Tensor, grad: Tensor, m: Tensor, size: Number, share: Number, decay: Number, per_input: bool = False
) -> None:
    average_(m, grad.to(m.dtype), share)
    direction = m.sign()
    descend_(p, direction / p.shape[-1] if per_input else direction, size, decay)


@kernel
def update_by_row(p: Tensor, grad: Tensor, m: Tensor, size: Number, share: Number, decay: Number) -> None:
    average_(m, grad.to(m.dtype), share)
    entries = m.movedim(-1, 0)  # of what it has just written, Inductor (torch 2.13) takes no last axis's mean
    descend_(p.movedim(-1, 0), entries / (entries.square().mean(0, keepdim=True).sqrt() + EPS), size, decay)


def by_layer(model: nn.Module) -> list[Group]:
    """Put hidden matrices, the output head, other tables and vectors apart, with the key `layer`.

    An embedding is the head where no head has as many rows: they are tied. Raises ValueError as `hidden_matrices` does.
    """
    kind_of = kinds(model)
    outputs = {len(p) for p, kind in kind_of.items() if kind == "head"}

    def layer(p: Tensor) -> str:
        kind = kind_of[p]
        if kind == "head" or (kind == "embedding" and len(p) not in outputs):
            return "head"
        return "table" if kind in TABLES else "vector"

    groups: list[Group] = []
    for group in by_kind(model):
        if group["hidden"]:
            groups.append({**group, "layer": "hidden"})
            continue
        for name in ("head", "table", "vector"):
            params = [p for p in group["params"] if layer(p) == name]
            groups += [{**group, "params": params, "layer": name}] if params else []
    return groups


@register(
    "scion",
    summary="extreme points of norm balls: orthogonalised momentum, signs for tables",
    paper="arXiv 2502.07529",
    presets="The values are those of the authors' README for GPT-2 with a tied head; for an untied one their example "
    "has `radius=3 head_radius=10 embedding_radius=1` and rates from 2^-12 to .5. `weight_decay=1` is the constrained "
    "form, `weight_decay=0` the unconstrained one. `scale=spectral` is Muon's s, sqrt(max(1, rows / columns)), as in "
    "Levanter's Scion, which Wen et al. tuned.",
    pitfalls="The decay is part of the method, and is as large as the rate: with a rate too small for the length of "
    "the run the first weights are not forgotten. Radii are as important as the rate. Small momenta count as much as "
    "large ones: a token that has not come for a while still moves by a whole step.",
    proof="tests/test_scion.py",
)
class Scion(Spectral):
    """The state is the momentum `m` of each parameter.

    Args:
        params: groups, each with a key `layer`: hidden, head, table or vector. `transposed`: True where hidden matrices
            are kept as (inputs, outputs). `outputs`: of each matrix, where a parameter holds several. `radius`: of this
            group, in place of the keyword's.
        momentum: b; the authors' `momentum` is 1 - b.
        radius: rho of hidden matrices.
        head_radius: of the output head, and of an embedding tied to it.
        embedding_radius: of other embeddings, and of learned positions.
        embedding_norm: their step, by signs or by rows of one size, as above.
        vector_radius: of biases and gains.
        ns_dtype: of the iteration; auto is bfloat16 on CUDA and float32 elsewhere.
        split_qkv: orthogonalise the matrices that a parameter holds one by one; False: as one.
        scale: s of hidden matrices: operator, as above, or spectral, Muon's.
        weight_decay: wd; 1 keeps the weights in their ball, 0 lets them go anywhere.
    """

    groups, mark = staticmethod(by_layer), "layer"

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 2**-12,
        momentum: float = 0.9,
        radius: float = 50.0,
        head_radius: float = 3000.0,
        embedding_radius: float = 1.0,
        embedding_norm: Literal["sign", "column"] = "sign",
        vector_radius: float = 1.0,
        ns_steps: int = 5,
        ns_dtype: Literal["auto", "bfloat16", "float32", "float64"] = "auto",
        split_qkv: bool = True,
        scale: Literal["operator", "spectral"] = "operator",
        weight_decay: float = 1.0,
    ) -> None:
        check_common(lr, weight_decay)
        self.radii = {"hidden": radius, "head": head_radius, "table": embedding_radius, "vector": vector_radius}
        names = ("radius", "head_radius", "embedding_radius", "vector_radius")
        for name, value in zip(names, self.radii.values(), strict=True):
            check_at_least(name, value, 0)
        if embedding_norm not in ("sign", "column"):
            raise ValueError(f"embedding_norm must be sign or column, not {embedding_norm!r}")
        if scale not in ("operator", "spectral"):
            raise ValueError(f"scale must be operator or spectral, not {scale!r}")
        self.embedding_norm, self.scale = embedding_norm, scale
        defaults = {"lr": lr, "momentum": momentum, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(params, defaults, ns_dtype, split_qkv)

    def marked(self, group: Group) -> list[Group]:
        """Return groups that say what layer they are of and how large its ball is."""
        marked: list[Group] = []
        for each in super().marked(group):
            layer = each["layer"] or "vector"  # nothing told what it is
            marked.append({"radius": self.radii[layer], **each, "layer": layer, "hidden": layer == "hidden"})
        return marked

    def treat_rest(self, p: Tensor, group: Group) -> Treatment:
        rows = "momentum at one size" if group["layer"] == "vector" else "momentum, rows of one size"
        rule = f"{rows if self._by_rows(group) else 'sign of the momentum'}, radius {group['radius']:g}"
        return treatment(p, rule, numbers=p.numel())

    def _step_rest(self, params: list[Any], group: Group) -> None:
        rows = [(p, p.grad, self._momentum(p)) for p in params]
        numbers = (group["lr"] * group["radius"], 1 - group["momentum"], group["lr"] * group["weight_decay"])
        if self._by_rows(group):
            update_by_row(rows, *numbers)
        else:
            update_by_sign(rows, *numbers, per_input=group["layer"] == "head")

    def _by_rows(self, group: Group) -> bool:
        """Tell whether a group's rows, or its vectors, step with one root mean square each."""
        return group["layer"] == "vector" or (group["layer"] == "table" and self.embedding_norm == "column")

    def _scale(self, rows: int, columns: int, group: Group) -> float:
        """Return rho s."""
        ratio = columns / rows if group.get("transposed") else rows / columns
        return group["radius"] * (ratio if self.scale == "operator" else max(1.0, ratio)) ** 0.5
