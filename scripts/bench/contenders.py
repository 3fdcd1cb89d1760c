"""The two sides of bench_train: halfstep's training step and nanoGPT's, on the same shape and tokens."""

import importlib.util
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from conventions.config_keys import CONFIGS
from conventions.keywords import bind
from data.loader import Loader
from data.shards import Shard
from harness import device as devices
from harness.clock import Clock
from harness.flops import Ledger
from harness.kernels import choose_kernels
from harness.objective import Objective
from harness.schedule import set_lr
from models import build_model
from models.head import block_rows, head_loss
from optimizers import build_optimizer, compile_kernels, find

LR, BETAS, WEIGHT_DECAY, GRAD_CLIP = 6e-4, (0.9, 0.95), 0.1, 1.0  # nanoGPT's defaults
FLASH_PACKAGES = ("fa3", "fa4")
LOG_EVERY = 10  # updates between reads of the loss, for both, as in nanoGPT's config/train_gpt2.py


@dataclass(frozen=True)
class Setting:
    """What is the same for both, unless a variant of one is measured.

    Attributes:
        tokens: a file of uint16.
        dtype: of the passes.
        compiled: by torch.compile, in the mode `compile`.
        attention: the one kernel that scaled_dot_product_attention may take; auto: whichever torch prefers. fa3, fa4:
            FlashAttention's own packages in the place of torch's flash kernel; torch says so where they are missing.
        head_rows: rows of a block of the head's loss, halfstep's alone; 0: in one piece.
        optimizer: a file of configs/optimizer, halfstep's alone; empty: AdamW, as nanoGPT has it.
    """

    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int
    sequences: int
    micro: int
    tokens: Path
    device: str
    dtype: torch.dtype
    compiled: bool
    compile: str = "default"
    attention: str = "auto"
    head_rows: int = 0
    optimizer: str = ""

    def choose(self) -> None:
        """Set what is this process's and not a model's."""
        block_rows(self.head_rows)
        if self.attention in FLASH_PACKAGES:
            torch.nn.attention.activate_flash_attention_impl(self.attention.upper())
        if self.attention != "auto":
            switches = torch.backends.cuda
            for name, enable in [("flash", switches.enable_flash_sdp), ("cudnn", switches.enable_cudnn_sdp),
                                 ("efficient", switches.enable_mem_efficient_sdp)]:  # fmt: skip
                enable(name == ("flash" if self.attention in FLASH_PACKAGES else self.attention))
            switches.enable_math_sdp(False)  # else a pass that the kernel cannot do would be timed under its name

    def forward(self, model: nn.Module) -> Any:
        """The model, compiled as the setting says."""
        if not self.compiled:
            return model
        usual = devices.compiled(model)  # for every mode: it sets the compiler's guards, and compiles when it is called
        return usual if self.compile == "default" else torch.compile(model, mode=self.compile, dynamic=False)

    @property
    def batch_tokens(self) -> int:
        return self.sequences * self.context

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def autocast(self) -> AbstractContextManager[None]:
        wanted = self.dtype != torch.float32
        return torch.autocast(torch.device(self.device).type, self.dtype, enabled=wanted)

    def json(self) -> dict[str, Any]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {**asdict(self), "dtype": dtype, "tokens": "random"}


class Contender(Protocol):
    setting: Setting
    kernels: str
    flops_per_token: int
    step: int  # updates done

    @property
    def embedding(self) -> Tensor: ...
    def turn(self, steps: int) -> float: ...  # seconds of so many updates
    def update(self) -> None: ...  # clip the gradient and step, with the gradient that is there
    def head_loss(self, x: Tensor, targets: Tensor) -> Tensor: ...
    def linear_layers(self) -> Sequence[nn.Linear]: ...  # of the blocks


def recipe(optimizer: str) -> dict[str, Any]:
    """The keys of configs/optimizer/<optimizer>.yaml."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONFIGS / "optimizer" / f"{optimizer}.yaml")))


class Halfstep:
    """The loop of train.py without its evaluations and files: Loader, Objective, clock, fused AdamW."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.kernels = choose_kernels(setting.device, setting.context)
        setting.choose()
        shape = {key: getattr(setting, key) for key in ("layers", "heads", "width", "context", "vocabulary")}
        self.model: Any = build_model("gpt2", 0, **shape).to(setting.device)
        self.flops_per_token = self.model.flops_per_token(setting.context)
        compile_kernels(setting.compiled)
        name, keywords = "adamw", {"lr": LR, "betas": BETAS, "weight_decay": WEIGHT_DECAY, "fused": True}
        if setting.optimizer:
            name = setting.optimizer
            keywords = {**bind(find(name).constructor, recipe(name), "optimizer", ["params"]), "lr": LR}
        self.optimizer = build_optimizer(name, self.model, **keywords)
        self.clock = Clock(setting.device)
        self.objective = Objective(
            self.model, sequences=setting.sequences, micro=setting.micro, flops_per_token=self.flops_per_token,
            clock=self.clock, ledger=Ledger(), forward=setting.forward(self.model),
            dtype=setting.dtype, grad_clip=GRAD_CLIP,
        )  # fmt: skip
        self.loader = Loader([Shard(setting.tokens)], setting.context, setting.sequences, 0, device=setting.device)
        self.step = 0

    @property
    def embedding(self) -> Tensor:
        return self.model.embedding.weight

    def turn(self, steps: int) -> float:
        self.setting.wait()
        start = time.perf_counter()
        for step in range(self.step, self.step + steps):
            with self.clock.running():
                with self.clock.part("data"):
                    batch = self.loader.batch(step)
                set_lr(self.optimizer, 1.0)
                self.optimizer.step(self.objective.bind(step, batch))  # type: ignore[arg-type]
            if step % LOG_EVERY == 0:
                assert self.objective.record.loss is not None
                self.objective.record.loss.item()
                self.clock.seconds()
        self.setting.wait()
        self.step += steps
        return time.perf_counter() - start

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.objective.params, GRAD_CLIP)
        self.optimizer.step()

    def head_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        return head_loss(x, self.embedding, targets)[0]

    def linear_layers(self) -> Sequence[nn.Linear]:
        return [module for module in self.model.modules() if isinstance(module, nn.Linear)]


def find_model(checkout: Path) -> Path:
    """The model.py of a checkout of nanoGPT; FileNotFoundError where there is none."""
    if not (checkout / "model.py").is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of nanoGPT: it holds no model.py")
    return checkout / "model.py"


class NanoGPT:
    """nanoGPT's model.py, and what its train.py does for an update, its batches and its log line included."""

    kernels = "default"

    def __init__(self, setting: Setting, source: Path):
        self.setting = setting
        torch.backends.cuda.matmul.allow_tf32 = True
        setting.choose()
        spec = importlib.util.spec_from_file_location("nanogpt_model", source)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            config = module.GPTConfig(
                block_size=setting.context, vocab_size=setting.vocabulary, n_layer=setting.layers,
                n_head=setting.heads, n_embd=setting.width, dropout=0.0, bias=False,
            )  # fmt: skip
            self.model = module.GPT(config).to(setting.device)
            kind = torch.device(setting.device).type
            self.optimizer = self.model.configure_optimizers(WEIGHT_DECAY, LR, BETAS, kind)
        self.forward = setting.forward(self.model)
        self.flops_per_token = 0  # the ledger's formula is ours; both have the same shape
        self.batch = self._draw()
        self.step = 0

    @property
    def embedding(self) -> Tensor:
        return self.model.transformer.wte.weight

    def turn(self, steps: int) -> float:
        passes = self.setting.sequences // self.setting.micro
        self.setting.wait()
        start = time.perf_counter()
        for step in range(self.step, self.step + steps):
            for _ in range(passes):
                with self.setting.autocast():
                    _, loss = self.forward(*self.batch)
                    loss = loss / passes
                self.batch = self._draw()  # while a GPU is still at the pass before
                loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if step % LOG_EVERY == 0:
                loss.item()
        self.setting.wait()
        self.step += steps
        return time.perf_counter() - start

    def update(self) -> None:
        for p in self.model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step()

    def head_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model.lm_head(x), targets)

    def linear_layers(self) -> Sequence[nn.Linear]:
        return [module for module in self.model.transformer.h.modules() if isinstance(module, nn.Linear)]

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets at random places of a map opened anew, as nanoGPT draws them."""
        tokens = np.memmap(self.setting.tokens, dtype=np.uint16, mode="r")
        places = torch.randint(len(tokens) - self.setting.context - 1, (self.setting.micro,))
        context = self.setting.context
        inputs, targets = (
            torch.stack([torch.from_numpy(tokens[i : i + context].astype(np.int64)) for i in places + shift])
            for shift in (0, 1)
        )
        if not self.setting.device.startswith("cuda"):
            return inputs, targets
        return tuple(t.pin_memory().to(self.setting.device, non_blocking=True) for t in (inputs, targets))  # type: ignore[return-value]
