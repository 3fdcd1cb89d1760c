"""Whole updates: halfstep's training step and nanoGPT's, on the same shape and the same tokens."""

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.loader import Loader, cut_for
from data.shards import Shard, tokens
from harness import device as devices
from harness.clock import Clock
from harness.flops import Ledger
from harness.kernels import choose_kernels
from harness.objective import TimedObjective
from harness.products import wait
from harness.profile import profiled
from harness.schedule import set_lr
from optimizers import compile_kernels
from scripts.bench.setting import Setting, optimizer_of, period_of

LOG_EVERY = 10  # updates between reads of the loss, for both sides, as in nanoGPT's config/train_gpt2.py
WARM_UP = 4  # updates before the first turn: two that compile and make the state, two that are timed for its length
RISE = 12  # updates over which the learning rate rises


class Training:
    """The turns of a side; `step` counts its updates."""

    setting: Setting
    update: Callable[[], None]
    read_loss: Callable[[], float]
    step = 0

    def warm_up(self) -> float:
        self.run(WARM_UP // 2)
        return self.run(WARM_UP // 2) / (WARM_UP // 2)

    def turn(self, updates: int, parts: bool) -> dict[str, Any]:
        """Measure the mean seconds of so many updates. The memory that is free then is left to the other side."""
        device = self.setting.device
        if cuda := device.startswith("cuda"):
            self.run(1)  # gets its memory back
            torch.cuda.reset_peak_memory_stats()
        answer: dict[str, Any] = {"seconds": self.run(updates) / updates, "updates": updates}
        answer |= {"peak_bytes": devices.peak_memory(device), "loss": self.read_loss()}
        with suppress(Exception):  # a profiler that a device does not have costs its own table, and no rate
            answer |= {"parts": profiled(lambda: self.run(1), device)} if parts else {}
        if cuda:
            torch.cuda.empty_cache()
        return answer

    def run(self, updates: int) -> float:
        """Make so many updates and return the seconds that they took."""
        wait(self.setting.device)
        start = perf_counter()
        for _ in range(updates):
            self.update()
            if self.step % LOG_EVERY == 0:
                self.read_loss()
            self.step += 1
        wait(self.setting.device)
        return perf_counter() - start


class Halfstep(Training):
    """The loop of train.py without its evaluations and files: Loader, Objective, clock, optimizer.

    Args:
        optimizer, way: its name, and keywords other than its YAML's.
        setting: keywords of a Setting.
    """

    def __init__(self, optimizer: str, way: dict[str, Any], **setting: Any) -> None:
        self.setting = s = Setting(**setting)
        self.kernels = choose_kernels(s.device, s.context)
        s.choose()
        compile_kernels(s.compile)
        plan, model, sequences = optimizer_of(optimizer, way, s.device), s.build(), s.tokens // s.context
        self.optimizer, self.period, self.clock = plan.build(model), period_of(plan.keywords), Clock(s.device)
        self.objective = TimedObjective(
            model, sequences=sequences, flops_per_token=model.flops_per_token(s.context), clock=self.clock,
            sampled_flops_per_token=model.sampled_flops_per_token(s.context), ledger=Ledger(),
            forward=s.forward(model), dtype=s.dtype, grad_clip=s.grad_clip,
            reserve=sum(unit.state_bytes for unit in plan.units(self.optimizer, model, s.tokens)),
        )  # fmt: skip
        self.objective.micro = s.sequences_per_pass(self.objective.attempt)
        first = s.data_tokens
        cut = cut_for(model.masking, first, (first, first + 1, first + 2))
        shards = [Shard(Path(file)) for file in s.files]
        self.loader = Loader(shards, s.context, sequences, seed=0, device=s.device, cut=cut)
        self.first_loss: float | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "period": self.period, "micro": self.objective.micro, "curvature_micro": self.objective.sizes.by_kind,
            "flops_per_token": self.objective.flops_per_token, "kernels": self.kernels, "first_loss": self.first_loss,
        }  # fmt: skip

    def update(self) -> None:
        with self.clock.running():
            with self.clock.part("data"):
                batch = self.loader.batch(self.step)
            set_lr(self.optimizer, min(1.0, (self.step + 1) / RISE))
            self.optimizer.step(self.objective.bind(self.step, batch))  # type: ignore[arg-type]
        if self.first_loss is None:
            self.first_loss = self.read_loss()

    def read_loss(self) -> float:
        assert self.objective.record.loss is not None
        self.clock.seconds()
        return self.objective.record.loss.item()


class NanoGPT(Training):
    """nanoGPT's model.py, and what its train.py does for an update, its batches and its log line included.

    Args:
        checkout: of nanoGPT.
        lr, betas, weight_decay: of its AdamW.
    """

    def __init__(self, checkout: str, lr: float, betas: list[float], weight_decay: float, **setting: Any) -> None:
        self.setting = s = Setting(**setting)
        torch.backends.cuda.matmul.allow_tf32 = True
        s.choose()
        spec = importlib.util.spec_from_file_location("nanogpt_model", Path(checkout) / "model.py")
        assert spec
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        keywords = {"n_layer": "layers", "n_head": "heads", "n_embd": "width", "block_size": "context", "bias": "bias"}
        shape = {theirs: s.shape[ours] for theirs, ours in keywords.items()}
        self.model = module.GPT(module.GPTConfig(vocab_size=s.vocabulary, dropout=0.0, **shape)).to(s.device)
        self.forward = s.forward(self.model)
        self.optimizer = self.model.configure_optimizers(weight_decay, lr, tuple(betas), torch.device(s.device).type)
        self.micro = s.sequences_per_pass(self.attempt)
        self.batch = self.draw()

    def facts(self) -> dict[str, Any]:
        return {"period": 1, "micro": self.micro}

    def update(self) -> None:
        passes = self.setting.tokens // self.setting.context // self.micro
        for _ in range(passes):
            loss = self.loss(*self.batch) / passes
            self.batch = self.draw()  # while a GPU is still at the pass before
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.setting.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = passes * loss.detach()

    def read_loss(self) -> float:
        return self.last.item()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.setting.autocast():
            return self.forward(inputs, targets)[1]

    def attempt(self, micro: int, context: int) -> None:
        """Try a pass beside room for the optimizer's state, as halfstep does to find how many sequences fit."""
        device = self.setting.device
        state, memory = sum(8 * p.numel() for p in self.model.parameters()), torch.cuda.get_device_properties(device)
        later = torch.empty(state + memory.total_memory // 16, dtype=torch.uint8, device=device)
        zeros = torch.zeros(micro, context, dtype=torch.int64, device=device)
        self.loss(zeros, zeros.clone()).backward()
        del later
        self.optimizer.zero_grad(set_to_none=True)

    def draw(self) -> list[Tensor]:
        """Draw inputs and targets at random places of a map opened anew, as nanoGPT does."""
        stream, context = tokens(Shard(Path(self.setting.files[0]))), self.setting.context
        places = torch.randint(len(stream) - context - 1, (self.micro,))
        pair = [
            torch.stack([torch.from_numpy(stream[i : i + context].astype(np.int64)) for i in places + shift])
            for shift in (0, 1)
        ]
        if self.setting.device.startswith("cuda"):
            return [t.pin_memory().to(self.setting.device, non_blocking=True) for t in pair]
        return pair
