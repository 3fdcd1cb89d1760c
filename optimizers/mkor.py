"""MKOR: K-FAC with factors of rank-1 updates, inverted as they come (Mozaffari et al., arXiv 2306.01685, algorithm 1).

    a, g = means over the tokens of a layer's inputs and of its outputs' gradients            every k-th step
    F <- z F + (1 - z) I  where max |F| > threshold                       for both inverse factors, L^-1 and R^-1
    F <- inverse of (d F^-1 + (1 - d) x x^T),  x = g for L^-1, a for R^-1
    V = L^-1 dW R^-1,  V <- V |dW| / |V|, then on to AdamW, LAMB or SGD

from F = I, a bias joined to W as a last column whose input is 1. `formula` says what the third line is; u = F x:

    exact     (F - (1 - d) u u^T / (d + (1 - d) x^T u)) / d               Sherman and Morrison's
    printed   d F + (1 - d) / (d^2 (1 + d (1 - d) x^T u)) u u^T           lines 7 and 8: no inverse of that average, for
                                                                          its sign makes large what should be small
    repo      M - y y^T / (1 + x^T y),  M = d F + (1 - d) I,  y = M x     the authors' code

The authors' code also leaves out the first statistics (F stays I), clamps every input and gradient to +-100 before
the mean, and rescales by the sum of the norms of W and bias: so does `repo` here. It has float16 factors and a fixed
d = .95; here they are float32 at least, and d is `decay`. Its stabiliser waits for |F| > 2, which cannot be: F starts
at I, M is no larger than I, and what follows takes away.

Each token has a loss of its own, so g, the mean of their gradients, is the sum of the mean loss's. Statistics come from
the pass that makes the gradient, unclipped. A fused qkv is three layers with one input, as queries, keys and values are
in the authors' BERT (`split_qkv`): each has its L^-1 and its rescaling, and R^-1 is theirs together. Embeddings, the
vocabulary head and vectors go to the backend with their plain gradients.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .activations import Activations, Layer, whole_model
from .backends import BACKENDS, Preconditioner
from .base import Objective, Reading, largest, median
from .checks import check_at_least, check_betas, check_common
from .loop import Loop
from .param_groups import by_decay
from .registry import register
from .treatment import Treatment, treatment

FORMULAS = ("exact", "printed", "repo")
CLAMP = 100.0  # of the authors' code


def update_inverse(inverse: Tensor, x: Tensor, decay: float, formula: str) -> None:
    """Apply the third line of the head of this file, in place.

    Args:
        inverse: F, (n, n), symmetric.
        x: (n,).
    """
    if formula == "repo":
        inverse.mul_(decay).diagonal().add_(1 - decay)
    u = inverse @ x
    bend = x @ u
    if formula == "exact":
        inverse.addr_(u * ((decay - 1) / (decay + (1 - decay) * bend)), u).div_(decay)
    elif formula == "printed":
        inverse.mul_(decay).addr_(u * ((1 - decay) / (decay**2 * (1 + decay * (1 - decay) * bend))), u)
    else:
        inverse.addr_(u * (-1 / (1 + bend)), u)


@register(
    "mkor",
    summary="a first-order method behind rank-1 factors",
    paper="arXiv 2306.01685",
    groups=whole_model,
    presets="`formula=exact` (the default) is what the paper means, `formula=printed` what it prints, "
    "`formula=repo` what its authors' code does. `split_qkv=false` takes a fused qkv as one layer. "
    "`skip_layers=[up,pooler,transform]` leaves out of BERT what that code does not take for a linear layer.",
    pitfalls="The printed formula is no inverse of its average: it enlarges the directions that should shrink. A "
    "mean over tokens is a poor witness of a covariance; with rescaling to the gradient's norm the backend "
    "decides much of the outcome.",
    proof="tests/test_mkor.py",
)
class Mkor(Preconditioner):
    """The state of a layer's weight (out, in) is the inverse factors `left` (out, out) and `right` (in, in).

    With a bias, `in` is one more. Of a layer in pieces each has its own `left.0`, `left.1` and so on. Beside them is
    the backend's: `m`, `v` and `step`, or `b`.

    Args:
        model: its hidden linear layers are hooked, all its parameters trained.
        decay: d, what the factors keep of themselves.
        every: updates between statistics.
        stabilizer: threshold and z of the second line; 2 and .9 are of the authors' code. Not in `repo`.
        split_qkv: take apart a layer that holds several matrices, as a fused qkv does; False: it is one.
        skip_layers: names of layers whose gradients go to the backend as they are, as `up` for that of every block.
        betas, eps: of adamw and lamb.
        momentum: of sgd.
        weight_decay: decoupled in adamw, inside the trust ratio in lamb, added to the gradient in sgd.
    """

    def __init__(
        self,
        model: nn.Module,
        /,
        lr: float = 6e-4,
        decay: float = 0.95,
        every: int = 10,
        formula: Literal["exact", "printed", "repo"] = "exact",
        stabilizer: tuple[float, float] = (2.0, 0.9),
        split_qkv: bool = True,
        skip_layers: tuple[str, ...] = (),
        backend: Literal["adamw", "lamb", "sgd"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.9,
        weight_decay: float = 0.1,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas(betas)
        check_betas([momentum], "momentum")
        check_at_least("eps", eps, 0)
        check_at_least("every", every, 1)
        if not 0 < decay < 1:
            raise ValueError(f"decay must be between 0 and 1, not {decay}")
        if formula not in FORMULAS:
            raise ValueError(f"formula must be {', '.join(FORMULAS[:-1])} or {FORMULAS[-1]}, not {formula!r}")
        if stabilizer[0] < 1 or not 0 <= stabilizer[1] <= 1:
            raise ValueError(f"stabilizer must be a threshold from 1 and a share from 0 to 1, not {list(stabilizer)}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be adamw, lamb or sgd, not {backend!r}")
        self.decay, self.every, self.formula = decay, every, formula
        self.threshold, self.kept = stabilizer
        self.backend = BACKENDS[backend]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(by_decay(whole_model(model)), defaults)
        self.activations = Activations(model, moment=1, split=split_qkv, skip=skip_layers)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        layer, moments = self.activations.layer_of(p), 2 * p.numel()
        if self.backend is BACKENDS["sgd"]:
            counts, moments = 0, p.numel() if self.defaults["momentum"] else 0
        else:
            counts = 1
        if layer is None:
            return treatment(p, "the backend's, plain", moments, counts)
        if p is layer.bias:
            return treatment(p, f"a column of {layer.name}", moments, counts)
        entries = layer.into**2 + sum(piece.shape[0] ** 2 for piece in layer.pieces)
        flops = self._product_flops(layer) + (9 * entries + tokens * (layer.out + layer.into)) / self.every
        rule = f"the backend's, behind rank-1 factors of its outputs ({layer.pieces[0].shape[0]}) and inputs "
        rule += f"({layer.into})" + (f", as {len(layer.pieces)} matrices" if len(layer.pieces) > 1 else "")
        return treatment(p, rule, moments + entries, counts, flops, moved=2 * moments)

    @torch.no_grad()
    def precondition(self, loss_scale: float = 1.0) -> None:
        """Put V in the place of the layers' gradients, for the step of any optimizer that follows.

        Args:
            loss_scale: as in `step`.
        """
        for p, direction in self._gradient(self.objective(None, loss_scale))[1].items():
            p.grad.copy_(direction)  # type: ignore[union-attr]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict as `Optimizer` does; hooks listen if the loop's next update is due."""
        super().load_state_dict(state_dict)
        if self.updates % self.every == 0:
            self.activations.arm(self._bounds(self.param_groups[0].get("num_tokens", 0)))
        else:
            self.activations.rest()

    def _bounds(self, num_tokens: int) -> tuple[float, float] | None:
        """Return the bounds of statistics; none before a loop's first, which `repo` leaves out anyway."""
        return (CLAMP, CLAMP / num_tokens) if self.formula == "repo" and num_tokens else None

    @torch._disable_dynamo  # whose graph of it has NaN in torch 2.13
    def _gradient(self, objective: Objective) -> tuple[Any, dict[Tensor, Tensor]]:
        """Return the loss, and V by parameter."""
        group = self.param_groups[0]
        if isinstance(objective, Loop):  # whose tokens are known when its hooks have counted them
            objective.num_tokens = group.get("num_tokens", 0)
        bounds = self._bounds(objective.num_tokens)
        loss, recorded = self.activations.record(objective, objective.step % self.every == 0, bounds)
        if recorded:
            self._update_factors(objective)
            if isinstance(objective, Loop):
                group["num_tokens"] = objective.num_tokens
        self.activations.listen(objective, (objective.step + 1) % self.every == 0, self._bounds(objective.num_tokens))
        directions: dict[Tensor, Tensor] = {}
        for layer in self.activations.of(self.param_groups):
            if layer.weight.grad is not None and "right" in self.state[layer.weight]:
                directions |= layer.parts(self._precondition(layer))
                objective.charge(self._product_flops(layer))
        return loss, directions

    def _update_factors(self, objective: Objective) -> None:
        for layer, a, g in self.activations.means(objective, self.param_groups):
            state = self.state[layer.weight]
            new = "right" not in state
            lefts = [
                (piece.state(state), "left", x * objective.num_tokens) for piece, x in zip(layer.pieces, g, strict=True)
            ]
            for own, name, x in [*lefts, (state, "right", a)]:
                if new:
                    own[name] = torch.eye(len(x), dtype=x.dtype, device=x.device)
                if self.formula != "repo":
                    self._stabilize(own[name])
                if not new or self.formula != "repo":
                    update_inverse(own[name], x, self.decay, self.formula)
            entries = layer.into**2 + sum(piece.shape[0] ** 2 for piece in layer.pieces)
            objective.charge(9 * entries + objective.num_tokens * (layer.out + layer.into))

    def _stabilize(self, inverse: Tensor) -> None:
        """Apply the second line; the choice is made on the device, so that nothing waits for it."""
        lost = (inverse.abs().amax() > self.threshold).to(inverse.dtype) * (1 - self.kept)
        inverse.mul_(1 - lost).diagonal().add_(lost)

    def _precondition(self, layer: Layer) -> Tensor:
        """Return V, (out, in), rescaled; a gradient of 0 stays 0."""
        state, whole, directions = self.state[layer.weight], layer.gradient(), []
        apart = self.formula == "repo" and layer.bias is not None
        for piece in layer.pieces:
            gradient = piece.of(whole)
            direction = piece.state(state)["left"] @ gradient @ state["right"]
            ratio = self._size(gradient, apart) / self._size(direction, apart)
            directions.append(direction.mul_(torch.where(gradient.any(), ratio, 1.0)))
        return torch.cat(directions) if len(directions) > 1 else directions[0]

    def _size(self, matrix: Tensor, apart: bool) -> Tensor:
        """Return a matrix's norm, or those of the weight and of the bias, its last column, summed."""
        parts = [matrix[:, :-1], matrix[:, -1]] if apart else [matrix]
        return torch.stack([part.norm() for part in parts]).sum()

    def _product_flops(self, layer: Layer) -> int:
        """Count the FLOPs of V."""
        return sum(2 * m * n * (m + n) + 4 * m * n for m, n in (piece.shape for piece in layer.pieces))

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        """Return the factors' condition, median and largest, in the 1-norm, which takes no eigenvalues."""
        states = [self.state.get(layer.weight, {}) for layer in self.activations.layers]
        factors = [factor for state in states for name, factor in state.items() if name.startswith(("left", "right"))]
        if not factors:
            return {}
        conditions = torch.stack([torch.linalg.cond(factor, 1) for factor in factors])
        return {"condition": Reading(conditions, median), "condition_max": Reading(conditions, largest)}
