"""Hooks sum a model's activations and their gradients over its tokens, during the pass that makes the gradient.

K-FAC and MKOR need each layer's inputs a and its outputs' gradients g beside the gradient of its weights. The hooks add
a a^T and g g^T, or a and g, to one tensor each, micro-batch after micro-batch, and keep nothing else. They do so only
inside `Activations.record`: evaluation, sampled gradients and Hessian-vector products go by unseen, and where no
statistics are due a hook costs a look at a flag. All of it is tensor arithmetic in place, which torch.compile takes
into its graphs (one with the sums and one without), provided that the hooks are there first: attach them, then compile.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Objective, state_dtype
from .kronecker import add_gram_, complete_
from .loop import Loop, world
from .pieces import cut
from .roles import fused_outputs, is_linear, is_transposed, matrix_kinds


def whole_model(model: nn.Module) -> nn.Module:
    """Return the model itself: the first argument of a constructor that attaches hooks and makes its own groups."""
    if not isinstance(model, nn.Module):
        raise ValueError("params: give the model itself, whose layers are hooked, and not its parameters")
    return model


def waits(objective: Objective) -> bool:
    """Tell whether a gradient is made before `step` is called, so that hooks must have listened already."""
    return isinstance(objective, Loop) and objective.closure is None


class Sum(NamedTuple):
    """A sum over rows, one for each token, and their number are tensors, so that nothing waits for the device."""

    total: Tensor  # (n,) of the rows, or (n, n) of their outer products, as optimizers.kronecker keeps a factor
    rows: Tensor  # (1,): a compiled pass takes float64 scalars on the CPU for numbers, and adds to a copy

    def add(self, x: Tensor, bound: float | None) -> None:
        """Add the rows of x (..., n), or (..., n - 1), which are given a last entry of 1: the input of a bias."""
        x = x.reshape(-1, x.shape[-1]).to(self.total.dtype)
        if x.shape[-1] < len(self.total):
            x = F.pad(x, (0, 1), value=1.0)
        if bound is not None:
            x = x.clamp(-bound, bound)
        if self.total.ndim == 2:
            add_gram_(self.total, x.mT)
        else:
            self.total.add_(x.sum(0))
        self.rows.add_(len(x))

    def mean(self) -> Tensor:
        """Return the mean, (n,) or (n, n), in the sum's own memory: the sum is gone afterwards."""
        total = self.total.div_(self.rows)
        return complete_(total) if total.ndim == 2 else total


class _Tap(torch.autograd.Function):
    """The identity function, whose backward pass adds the gradient to sums: one of each matrix, by its outputs."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bound: float | None, *sums: Tensor) -> Tensor:
        ctx.bound, ctx.sums = bound, sums  # total, rows, total, rows, ...
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        sums = [Sum(*each) for each in zip(ctx.sums[::2], ctx.sums[1::2], strict=True)]
        parts = g.detach().split([len(each.total) for each in sums], dim=-1)
        for each, part in zip(sums, parts, strict=True):
            each.add(part, ctx.bound)
        return g, None, *(None for _ in ctx.sums)


class Layer:
    """A weight of linear layers, what its hooks have summed, and its gradient as one matrix.

    Attributes:
        weight: (out, in), or (in, out) where `transposed`. Modules that share it are one layer, whose rows are the
            tokens of all its uses.
        pieces: the matrices that the layer's one holds, by their rows in it: three of a fused qkv that is taken apart.
        bias: (out,), the last column of the matrix, which then is (out, in + 1); None where there is none, where it is
            frozen, or where modules with the same weight have biases of their own.
    """

    def __init__(
        self, name: str, weight: Tensor, bias: Tensor | None, transposed: bool = False, outputs: Sequence[int] = ()
    ) -> None:
        self.name, self.weight, self.bias, self.transposed = name, weight, bias, transposed
        out, into = reversed(weight.shape) if transposed else weight.shape
        self.out, self.into = out, into + (bias is not None)
        self.pieces = cut((self.out, self.into), outputs)
        self.dtype = state_dtype(weight)
        self.uses = 1  # modules that share the weight
        self.recording = False
        self.inputs: Sum | None = None
        self.gradients: list[Sum] = []  # one of each piece
        self.bounds: tuple[float, float] | None = None  # of the entries of inputs and gradients

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Sum the inputs, as a forward hook; a tensor that it returns takes the output's place."""
        if not self.recording or not torch.is_grad_enabled():
            return None
        assert self.inputs is not None
        bounds = self.bounds or (None, None)
        with torch.autocast(output.device.type, enabled=False):  # a pass in bfloat16 is no reason to sum in it
            self.inputs.add(args[0].detach(), bounds[0])
        return _Tap.apply(output, bounds[1], *(tensor for each in self.gradients for tensor in each))

    def gradient(self) -> Tensor:
        """Return the gradient of weight and bias as one matrix, (out, in [+ 1]), in the dtype of the state."""
        assert self.weight.grad is not None
        grad = self.weight.grad.to(self.dtype)
        grad = grad.T if self.transposed else grad
        if self.bias is None:
            return grad
        assert self.bias.grad is not None
        return torch.cat([grad, self.bias.grad.to(self.dtype)[:, None]], dim=1)

    def parts(self, matrix: Tensor) -> dict[Tensor, Tensor]:
        """Take a matrix of the gradient's shape apart by parameter."""
        weight = matrix if self.bias is None else matrix[:, :-1]
        parts = {self.weight: weight.T if self.transposed else weight}
        return parts if self.bias is None else {**parts, self.bias: matrix[:, -1]}


def linear_layers(
    model: nn.Module, split: bool = False, skip: Sequence[str] = ()
) -> list[tuple[Layer, list[nn.Module]]]:
    """Return the hidden linear layers and the modules of each: no embedding, no output head, no frozen weight.

    Args:
        split: take a layer apart that holds several matrices, as a fused qkv does.
        skip: names of layers to be left out: whole ones, or the last part, which all blocks have in common.

    Raises:
        ValueError: a hidden matrix belongs to no linear layer, so that hooks would never see what passes through it; or
            no hidden linear layer has a name of `skip`.
    """
    hidden = {p for p, kind in matrix_kinds(model).items() if kind == "hidden"}
    modules: dict[Tensor, list[tuple[str, Any]]] = defaultdict(list)
    for name, module in model.named_modules():
        if is_linear(module) and module.weight in hidden:
            modules[module.weight].append((name, module))
    for name, p in model.named_parameters():
        if p in hidden and p not in modules:
            raise ValueError(f"optimizer: the hidden matrix {name} is in no linear layer that a hook could be put on")
    names = {p: {part for name, _ in uses for part in (name, name.split(".")[-1])} for p, uses in modules.items()}
    known = ", ".join(dict.fromkeys(uses[0][0].split(".")[-1] for uses in modules.values()))
    if known and (unknown := sorted({*skip}.difference(*names.values()))):  # a model of one layer has no name for it
        raise ValueError(f"skip_layers: no hidden linear layer is called {unknown[0]!r}; there are {known}")
    layers, fused = [], fused_outputs(model) if split else {}
    for weight, uses in [(weight, uses) for weight, uses in modules.items() if names[weight].isdisjoint(skip)]:
        name, first = uses[0]
        bias = first.bias
        joined = bias is not None and bias.requires_grad and all(module.bias is bias for _, module in uses)
        layer = Layer(name, first.weight, bias if joined else None, is_transposed(first), fused.get(weight, ()))
        layer.uses = len(uses)
        layers.append((layer, [module for _, module in uses]))
    return layers


class Activations:
    """The hooks on a model's hidden linear layers.

    Args:
        moment: 1 sums the rows, 2 their outer products.
        split, skip: those of `linear_layers`.

    Raises:
        ValueError: the model has no such layer, or `skip` leaves none.
    """

    def __init__(self, model: nn.Module, moment: Literal[1, 2], split: bool = False, skip: Sequence[str] = ()) -> None:
        self.moment = moment
        self.layers: list[Layer] = []
        for layer, modules in linear_layers(model, split, skip):
            self.layers.append(layer)
            for module in modules:
                module.register_forward_hook(layer)
        if not self.layers:
            which = f"but its head and {', '.join(skip)} of skip_layers" if skip else "but its head"
            raise ValueError(f"the model has no trainable linear layer {which}: there is nothing to precondition")
        self._seen: set[str] = set()
        self.lost = False  # the last statistics were not finite
        self.arm()  # a loop without an Objective makes its first pass before it calls anything here

    def of(self, groups: Iterable[Mapping[str, Any]]) -> list[Layer]:
        """Return the layers whose weight is in one of an optimizer's groups."""
        there = {p for group in groups for p in group["params"]}
        return [layer for layer in self.layers if layer.weight in there]

    def together(self) -> list[list[Tensor]]:
        """Return the parameters of each layer: only one rank can update them, since they are one matrix."""
        return [[layer.weight] if layer.bias is None else [layer.weight, layer.bias] for layer in self.layers]

    def layer_of(self, p: Tensor) -> Layer | None:
        """Return the layer that a parameter is the weight or the joined bias of."""
        return next((layer for layer in self.layers if p is layer.weight or p is layer.bias), None)

    def arm(self, bounds: tuple[float, float] | None = None) -> None:
        """Let the hooks sum, from zero on.

        Args:
            bounds: clamp each entry of the inputs and of the gradients to plus or minus these.
        """
        for layer in self.layers:
            layer.inputs = self._zero(layer, layer.into)
            layer.gradients = [self._zero(layer, piece.shape[0]) for piece in layer.pieces]
            layer.bounds, layer.recording = bounds, True

    def rest(self) -> None:
        """Let the hooks pass everything by."""
        for layer in self.layers:
            layer.recording = False

    def record(self, objective: Objective, due: bool, bounds: tuple[float, float] | None = None) -> tuple[Any, bool]:
        """Make the objective's gradient; return its loss, and whether the hooks have summed.

        Args:
            due: whether they shall. A loop that has made its passes already has been listened to since `listen`.
            bounds: those of `arm`.
        """
        if waits(objective):
            due = self.layers[0].recording
        elif due:
            self.arm(bounds)
        else:
            self.rest()
            self._forget()
        try:
            return objective(), due
        finally:
            self.rest()

    def listen(self, objective: Objective, due: bool, bounds: tuple[float, float] | None = None) -> None:
        """After an update of a loop without a closure: let the hooks sum in its next passes, if statistics are due."""
        if waits(objective) and (due or self.lost):
            self.arm(bounds)

    def means(
        self, objective: Objective, groups: Iterable[Mapping[str, Any]] | None = None
    ) -> Iterator[tuple[Layer, Tensor, list[Tensor]]]:
        """Yield each layer of the groups that has a gradient, and its means over all micro-batches and ranks.

        groups: an optimizer's; None: all layers. Call it once for each record, on every rank, whatever its groups hold.

        There is one mean of its inputs, and of its outputs' gradients one of each piece. The gradients are those of the
        global batch's mean loss, neither clipped nor scaled up by its tokens. With moment 1 they are means over all
        tokens, also where few of these pass the layer, as BERT's predicted ones. In a loop without an Objective there
        are none where a scaled loss has overflowed: the next pass makes good for it.

        Raises:
            ValueError: a layer has a gradient, and its hooks have never seen it.
        """
        used = [layer for layer in self.layers if layer.weight.grad is not None]
        sums = [kept for layer in used for kept in (layer.inputs, *layer.gradients) if kept is not None]
        objective.mean_([tensor for kept in sums for tensor in kept])
        self._check(used, objective.step)
        rows = {layer: layer.inputs.rows / layer.uses for layer in used if layer.inputs}
        most = torch.cat(list(rows.values())).max() if rows else torch.ones(())
        if isinstance(objective, Loop):
            self.lost = not bool(torch.stack([kept.total.isfinite().all() for kept in sums]).all())
            objective.num_tokens = round(most.item() * world())
        mine = set(self.layers if groups is None else self.of(groups))
        for layer in [each for each in used if each in mine] if not self.lost else []:
            assert layer.inputs is not None
            share = (rows[layer] / most)[0]  # 1 of a layer that all tokens pass
            a, gs = layer.inputs.mean(), [each.mean() for each in layer.gradients]
            if isinstance(objective, Loop):
                torch._foreach_mul_(gs, objective.unit**self.moment)
            if self.moment == 1:
                torch._foreach_mul_(gs, share)
            yield layer, a, gs
        self._forget()

    def _forget(self) -> None:
        for layer in self.layers:
            layer.inputs, layer.gradients = None, []

    def _zero(self, layer: Layer, n: int) -> Sum:
        place: dict[str, Any] = {"dtype": layer.dtype, "device": layer.weight.device}
        return Sum(torch.zeros([n] * self.moment, **place), torch.zeros(1, **place))

    def _check(self, used: list[Layer], step: int) -> None:
        """Raise where a layer's hooks have seen nothing; only its first time, since this waits for the device."""
        new = [layer for layer in used if layer.name not in self._seen]
        for layer in new:
            assert layer.inputs is not None
            if not layer.inputs.rows or not layer.gradients[0].rows:
                raise ValueError(
                    f"the hooks on layer {layer.name} recorded nothing in step {step}, although its weight has a "
                    "gradient: build the optimizer before torch.compile, and call the module rather than its weight"
                )
        self._seen.update(layer.name for layer in new)
