"""A tryout steps a class on a small model before there is another, to find how it wants to be called.

It makes no claim on the class: what the tryout cannot tell is left to the run. Nothing of it is compiled.
"""

import io
import linecache
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import Adapter

Build = Callable[[nn.Module], torch.optim.Optimizer]
UPDATES = 14  # some classes wait for ten gradients before they move anything
TOKENS, VOCABULARY, WIDTH = 6, 12, 16


class TryoutModel(nn.Module):
    """A transformer's kinds of parameters, few of each: tied embedding, positions, hidden matrices, a norm, a bias."""

    heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        self.wpe = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the loss of predicting each token from the one before it; tokens (B, T + 1), int64."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = self.wte(inputs) + self.wpe.weight[: inputs.shape[1]]
        x = x + self.attention(self.norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return F.cross_entropy(self.lm_head(x).flatten(0, 1), targets.flatten())


class TryoutObjective:
    """The closure of a tryout: the same four sequences in every step."""

    def __init__(self, model: TryoutModel) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(VOCABULARY, (4, TOKENS + 1), generator=generator)
        self.tokens = tokens.to(model.wte.weight.device)
        self.calls = 0

    @torch.enable_grad()
    def __call__(self, graph: bool = False) -> Tensor:
        self.calls += 1
        self.model.zero_grad()
        loss = self.model(self.tokens)
        params = list(self.model.parameters())
        for p, g in zip(params, torch.autograd.grad(loss, params, create_graph=graph), strict=True):
            p.grad = g
        return loss.detach()

    def gradient_with_graph(self) -> Tensor:
        return self(graph=True)


class Tryout:
    """A class on a fresh tryout model, with all random draws fixed; the caller's generators are left as they were."""

    def __init__(self, build: Build, device: str = "cpu") -> None:
        with _alone(0, device):
            self.model = TryoutModel().to(device)
        self.objective = TryoutObjective(self.model)
        with _alone(0, device):
            self.optimizer = build(self.model)
        self.made, self.device = 0, device

    def steps(self, number: int = 1, rate: float = 1.0, before: Callable[[nn.Module], None] | None = None) -> None:
        """Make so many steps at a factor on the rate; `before` each of them may touch the model."""
        for _ in range(number):
            self.made += 1
            for group in self.optimizer.param_groups:
                if "lr" in group:
                    group.setdefault("initial_lr", group["lr"])
                    group["lr"] = rate * group["initial_lr"]
            with _alone(self.made, self.device):
                if before:
                    before(self.model)
                calls = self.objective.calls
                self.optimizer.step(self.objective)  # type: ignore[arg-type]
                if self.objective.calls == calls:
                    raise ValueError("its step() never asks for a gradient")

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


@contextmanager
def _alone(seed: int, device: str) -> Iterator[None]:
    """Keep what a class draws, prints and warns of within the tryout; nothing is compiled."""
    drawn = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=drawn), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept, numpy = random.getstate(), sys.modules.get("numpy")  # numpy, if anybody draws from it
        kept_of_numpy = numpy.random.get_state() if numpy else None
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            random.setstate(kept)
            if numpy:
                numpy.random.set_state(kept_of_numpy)


def uses_earlier_gradient(build: Build, device: str = "cpu") -> bool:
    """Tell whether step(closure) uses the gradient that it finds, as SAM's does: other gradients, other weights."""

    def leave(value: float) -> Callable[[nn.Module], None]:
        def fill(model: nn.Module) -> None:
            generator = torch.Generator().manual_seed(3)
            for p in model.parameters():
                p.grad = value * torch.randn(p.shape, generator=generator).to(p)

        return fill

    ends = []
    for value in (1.0, -0.5):
        tryout = Tryout(build, device)
        tryout.steps(2, before=leave(value))
        ends.append(tryout.weights())
    return not _alike(*ends)


def heeds_schedule(build: Build, device: str = "cpu") -> bool:
    """Tell whether updates depend on the rate of later steps than the first two: half of it, other weights."""
    ends = []
    for rate in (1.0, 0.5):
        tryout = Tryout(build, device)
        tryout.steps(2)
        tryout.steps(UPDATES - 2, rate=rate)
        ends.append(tryout.weights())
    return not _alike(*ends)


def heeds_decay(build: Build, device: str = "cpu") -> bool:
    """Tell whether updates depend on the weight decay that the groups say: ten times as much, other weights."""
    ends = []
    for factor in (1.0, 10.0):
        tryout = Tryout(build, device)
        for group in (group for group in tryout.optimizer.param_groups if "weight_decay" in group):
            group["weight_decay"] *= factor
        tryout.steps(UPDATES)
        ends.append(tryout.weights())
    return not _alike(*ends)


def writes_rate(tryout: Tryout) -> bool:
    """Tell whether a step changes the rate in its groups: such a class schedules itself."""
    tryout.steps(1)
    return any("lr" in group and group["lr"] != group["initial_lr"] for group in tryout.optimizer.param_groups)


def switches(tryout: Tryout) -> bool:
    """Tell whether eval() and train() work after a step: wrappers may offer both and pass them on to one without."""
    parts = tryout.optimizer.parts if isinstance(tryout.optimizer, Adapter) else [tryout.optimizer]
    try:
        for part in parts:
            part.eval()  # type: ignore[attr-defined]
            part.train()  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError):
        return False
    except Exception:  # it has two sets; the run says what went wrong, instead of evaluating the other one in silence
        return True
    return True


def place_of(error: BaseException) -> str:
    """Say where an error was raised: the file, the line and its text."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    text = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"{last.filename.rpartition('/')[2]}:{last.lineno}: {text}"


def _alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) or bool((a.isnan() & b.isnan()).any()) for a, b in zip(one, other, strict=True))
