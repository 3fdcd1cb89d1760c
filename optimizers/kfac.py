"""K-FAC: each layer's gradient times the inverse of its Kronecker-factored Fisher matrix (Martens & Grosse, ICML 2015).

    A <- f A + (1 - f) mean(a a^T),  G <- f G + (1 - f) mean(g g^T)     every k-th step, from A = G = I
    V = (G (x) A + damping I)^-1 dW                                     eigen
    V = (G + damping I)^-1 dW (A + damping I)^-1                        inverse
    V <- V min(1, sqrt(kl_clip / sum over layers of lr^2 <V, dW>))
    b <- momentum b + V + wd W,  W <- W - lr b                          and so on with AdamW or LAMB

over a layer's inputs a and its outputs' gradients g, a bias joined to W as a last column whose input is 1. The details
are KAISA's (Pauloski et al., arXiv 2107.01739, and the authors' code): K-FAC only replaces gradients, and one
first-order method, `backend`, takes them all: SGD with momentum in KAISA's own examples, LAMB in MKOR's baseline for
BERT. So embeddings, the vocabulary head and vectors get the backend alone, at the same rate.

`damping`, `factor_decay`, `kl_clip` and `lr` are by default what KAISA's code has. Its intervals are 1 and 1 there, 1
and 10 or 10 and 100 in its examples, and 1 and 10 in MKOR's baseline: `every_factor` and `every_inverse`, 10 and 50 by
default, are ours.

- The Fisher matrix is the empirical one: g comes from the true labels, in the pass that makes the gradient, unclipped.
- g belongs to the *mean* loss, as in KAISA, so G is smaller by the square of the tokens in a batch than the theory's.
  With thousands of tokens it fades, as its start from I is forgotten, until nothing of G (x) A is above a damping of
  .001, and SGD under kl_clip is left. Dividing `damping` and `kl_clip` by that square gives the theory's step back
  wherever the clip is at work.
- On R ranks KAISA's g belongs to a rank's own mean loss, and its G is R^2 times as large as on one; here g is that of
  the global batch on any number of ranks.
- A fused qkv is three layers with one input, as queries, keys and values are in the authors' BERT (`split_qkv`): G is
  three matrices of a third of the width, A is one.
- Where kl_clip is at work before SGD, lr cancels out of the preconditioned layers' step, and a schedule no longer
  reaches them.
"""

from collections.abc import MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .activations import Activations, Layer, whole_model
from .backends import BACKENDS, BY_MOMENTS, Preconditioner
from .base import Objective, Reading, largest, median
from .checks import check_at_least, check_betas, check_common
from .kronecker import eigh, eigh_flops, gram_flops, spread
from .param_groups import by_decay
from .registry import register
from .treatment import Treatment, treatment

State = MutableMapping[str, Tensor]


@register(
    "kfac",
    summary="a first-order method behind inverse Kronecker factors",
    paper="arXiv 2107.01739",
    groups=whole_model,
    presets="`method=eigen` (the default) and `method=inverse` are KAISA's two. `backend=lamb every_factor=1 "
    "every_inverse=10` is the baseline of MKOR's paper. `split_qkv=false` takes a fused qkv as one layer. "
    "`skip_layers=[up,pooler,transform]` leaves out of BERT what that baseline does not take for a linear layer.",
    pitfalls="At KAISA's defaults it fades into SGD on batches of thousands of tokens (above: what to divide "
    "`damping` and `kl_clip` by). The statistics of every token cost as much as most of a gradient. What it does "
    "not precondition, embeddings above all, gets the backend alone.",
    proof="tests/test_kfac.py",
)
class KFAC(Preconditioner):
    """The state of a layer's weight (out, in) is `A` (in, in), `G` (out, out) and what was last made of them.

    With a bias, `in` is one more. Of a layer in pieces each has its own `G.0`, `G.1` and so on. Method eigen keeps
    eigenvectors `A_vectors`, `G_vectors` and eigenvalues `A_values`, `G_values`; inverse keeps `A_inverse`,
    `G_inverse`. Every parameter has the backend's `b`, or `m`, `v` and `step`.

    Args:
        model: its hidden linear layers are hooked, all its parameters trained.
        factor_decay: f, what the averages keep of themselves.
        kl_clip: largest lr^2 <V, dW> over all layers; None: no clipping.
        every_factor: updates between statistics.
        every_inverse: updates between inversions.
        split_qkv: take apart a layer that holds several matrices, as a fused qkv does; False: it is one.
        skip_layers: names of layers whose gradients go to the backend as they are, as `up` for that of every block.
        stagger: spread the layers' inversions over every_inverse steps, so that no step bears them all. A layer whose
            turn has not come yet takes its plain gradient.
        backend: the first-order method that takes the gradients.
        betas, eps: of adamw and lamb.
        momentum: of sgd.
        weight_decay: decoupled in adamw, inside the trust ratio in lamb, added to the gradient in sgd.
    """

    def __init__(
        self,
        model: nn.Module,
        /,
        lr: float = 0.1,
        damping: float = 1e-3,
        factor_decay: float = 0.95,
        kl_clip: float | None = 1e-3,
        every_factor: int = 10,
        every_inverse: int = 50,
        method: Literal["eigen", "inverse"] = "eigen",
        split_qkv: bool = True,
        skip_layers: tuple[str, ...] = (),
        backend: Literal["adamw", "lamb", "sgd"] = "sgd",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.9,
        stagger: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        check_common(lr, weight_decay)
        check_betas([factor_decay], "factor_decay")
        check_betas([momentum], "momentum")
        check_at_least("every_factor", every_factor, 1)
        check_at_least("every_inverse", every_inverse, 1)
        if damping <= 0:
            raise ValueError(f"damping must be above 0, not {damping}")
        if kl_clip is not None and kl_clip <= 0:
            raise ValueError(f"kl_clip must be above 0, not {kl_clip}; null turns it off")
        check_betas(betas)
        check_at_least("eps", eps, 0)
        if backend not in BACKENDS:
            raise ValueError(f"backend must be adamw, lamb or sgd, not {backend!r}")
        if method not in ("eigen", "inverse"):
            raise ValueError(f"method must be eigen or inverse, not {method!r}")
        self.damping, self.factor_decay, self.kl_clip = damping, factor_decay, kl_clip
        self.every_factor, self.every_inverse = every_factor, every_inverse
        self.eigen = method == "eigen"
        self.backend, self.by_moments = BACKENDS[backend], backend in BY_MOMENTS
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(by_decay(whole_model(model)), defaults)
        self.activations = Activations(model, moment=2, split=split_qkv, skip=skip_layers)
        costs = [self._inversion_flops(layer) for layer in self.activations.layers]
        self.due_at = spread(costs, every_inverse) if stagger else [0] * len(costs)

    def treat(self, p: Tensor, tokens: int) -> Treatment:
        layer = self.activations.layer_of(p)
        buffer = 2 * p.numel() if self.by_moments else p.numel() if self.defaults["momentum"] else 0
        counts = int(self.by_moments)
        if layer is None:
            return treatment(p, "the backend's, plain", buffer, counts)
        if p is layer.bias:
            return treatment(p, f"a column of {layer.name}", buffer, counts)
        sides = self._sides(layer)
        numbers = buffer + sum(2 * n**2 + (n if self.eigen else 0) for n in sides)
        flops: float = self._product_flops(layer) + sum(gram_flops(n, tokens) for n in sides) / self.every_factor
        flops += self._inversion_flops(layer) / self.every_inverse
        rule = f"times inverse factors of its outputs ({layer.pieces[0].shape[0]}) and inputs ({layer.into})"
        rule += f", as {len(layer.pieces)} matrices" if len(layer.pieces) > 1 else ""
        return treatment(p, rule, numbers, counts, flops, moved=2 * buffer)

    @torch.no_grad()
    def precondition(self, lr: float | None = None, loss_scale: float = 1.0) -> None:
        """Put V in the place of the layers' gradients, for the step of any optimizer that follows.

        Args:
            lr: of that step, which kl_clip asks for; None: this optimizer's own.
            loss_scale: as in `step`.
        """
        _, directions = self._gradient(self.objective(None, loss_scale), lr)
        for p, direction in directions.items():
            p.grad.copy_(direction)  # type: ignore[union-attr]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict as `Optimizer` does; hooks listen if the loop's next update is due."""
        super().load_state_dict(state_dict)
        if self.updates % self.every_factor == 0:
            self.activations.arm()
        else:
            self.activations.rest()

    @torch._disable_dynamo  # which, in torch 2.13, takes the gradient of one key of a dict for that of another
    def _gradient(self, objective: Objective, lr: float | None = None) -> tuple[Any, dict[Tensor, Tensor]]:
        """Return the loss, and V by parameter, clipped."""
        loss, recorded = self.activations.record(objective, objective.step % self.every_factor == 0)
        if recorded:
            self._update_factors(objective)
        directions: dict[Tensor, Tensor] = {}
        mine = set(self.activations.of(self.param_groups))
        for layer, turn in zip(self.activations.layers, self.due_at, strict=True):
            if layer.weight.grad is None or layer not in mine:
                continue
            if objective.step % self.every_inverse == turn and "A" in self.state[layer.weight]:
                self._invert(layer)
                objective.charge(self._inversion_flops(layer))
            if self._inverted(layer):
                directions |= layer.parts(self._precondition(layer))
                objective.charge(self._product_flops(layer))
        scale = self._clip(directions, objective, lr)
        self.activations.listen(objective, (objective.step + 1) % self.every_factor == 0)
        return loss, {p: direction.mul_(scale) for p, direction in directions.items()}

    def _update_factors(self, objective: Objective) -> None:
        for layer, a, g in self.activations.means(objective, self.param_groups):
            state = self.state[layer.weight]
            gs = [(piece.state(state), "G", mean) for piece, mean in zip(layer.pieces, g, strict=True)]
            for own, name, mean in [(state, "A", a), *gs]:
                if name not in own:
                    own[name] = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
                own[name].mul_(self.factor_decay).add_(mean, alpha=1 - self.factor_decay)
            objective.charge(sum(gram_flops(n, objective.num_tokens) for n in self._sides(layer)))

    def _inverted(self, layer: Layer) -> bool:
        return ("A_vectors" if self.eigen else "A_inverse") in self.state.get(layer.weight, {})

    def _inversion_flops(self, layer: Layer) -> int:
        return sum(eigh_flops(n) if self.eigen else 2 * n**3 for n in self._sides(layer))

    def _product_flops(self, layer: Layer) -> int:
        """Count the FLOPs of V."""
        return sum((4 if self.eigen else 2) * m * n * (m + n) for m, n in (piece.shape for piece in layer.pieces))

    def _sides(self, layer: Layer) -> list[int]:
        """Return the sizes of A and of each G."""
        return [layer.into, *(piece.shape[0] for piece in layer.pieces)]

    def _invert(self, layer: Layer) -> None:
        state = self.state[layer.weight]
        for own, name in [(state, "A"), *((piece.state(state), "G") for piece in layer.pieces)]:
            factor = own[name]
            if self.eigen:
                values, own[f"{name}_vectors"] = eigh(factor)
                own[f"{name}_values"] = values.clamp_(min=0.0)  # rounding may push them below
            else:
                damped = factor + self.damping * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
                own[f"{name}_inverse"] = torch.linalg.inv(damped)

    def _precondition(self, layer: Layer) -> Tensor:
        """Return V, (out, in)."""
        state, gradient = self.state[layer.weight], layer.gradient()
        parts = [self._between(state, piece.state(state), piece.of(gradient)) for piece in layer.pieces]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _between(self, inputs: State, outputs: State, gradient: Tensor) -> Tensor:
        """Return the V of one matrix, by the factors of its inputs and of its outputs."""
        if not self.eigen:
            return outputs["G_inverse"] @ gradient @ inputs["A_inverse"]
        left, right = outputs["G_vectors"], inputs["A_vectors"]
        rotated = left.T @ gradient @ right
        rotated.div_(torch.outer(outputs["G_values"], inputs["A_values"]).add_(self.damping))
        return left @ rotated @ right.T

    def _clip(
        self, directions: dict[Tensor, Tensor], objective: Objective, rate: float | None = None
    ) -> Tensor | float:
        """Return kl_clip's factor on the preconditioned gradients; a tensor, so that nothing waits for the device.

        Of layers that other ranks step on, they have the products.
        """
        if self.kl_clip is None:
            return 1.0
        lr = {p: group["lr"] if rate is None else rate for group in self.param_groups for p in group["params"]}
        first = self.activations.layers[0]
        nothing = torch.zeros((), dtype=first.dtype, device=first.weight.device)
        products = torch.stack([
            (directions[p] * p.grad).sum() * lr[p] ** 2 if p in directions else nothing  # type: ignore[operator]
            for unit in self.together() for p in unit
        ])  # fmt: skip
        objective.join_(products)
        return (self.kl_clip / products.sum().abs()).sqrt().clamp(max=1.0)

    @torch.no_grad()
    def readings(self) -> dict[str, Reading | float]:
        """Return the condition of what multiplies the layers' gradients, the median and the largest.

        Method eigen has it in the 2-norm, inverse in the 1-norm, where it takes no eigenvalues.
        """
        conditions = []
        for layer in self.activations.layers:
            if not self._inverted(layer):
                continue
            state = self.state[layer.weight]
            for own in (piece.state(state) for piece in layer.pieces):
                if self.eigen:
                    a, g = state["A_values"], own["G_values"]
                    conditions.append((a.max() * g.max() + self.damping) / (a.min() * g.min() + self.damping))
                else:
                    conditions.append(torch.linalg.cond(state["A_inverse"], 1) * torch.linalg.cond(own["G_inverse"], 1))
        if not conditions:
            return {}
        both = torch.stack(conditions)
        return {"condition": Reading(both, median), "condition_max": Reading(both, largest)}
