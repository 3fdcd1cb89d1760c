"""Sets what the sides of a measurement have in common: model, tokens, the device and its switches."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import lcm
from typing import Any, Literal

import torch
from torch import nn

from conventions.config_keys import CONFIGS
from conventions.yaml_file import read_yaml
from harness import device as devices
from harness.pass_sizes import resolve_micro
from models import find
from models.head import block_rows
from models.plan import check_model
from optimizers.plan import OptimizerPlan, check_optimizer


@dataclass(frozen=True)
class Setting:
    """The same for both sides, unless a variant of one is measured.

    Attributes:
        tokens: per update.
        files: shards of tokens.
        compile: whether torch.compile is used, in the mode `mode`.
        micro: sequences per pass; None: as many as fit the memory.
        attention: the one kernel that scaled_dot_product_attention may take; auto: whichever torch prefers. fa3 and fa4
            are FlashAttention's own packages in the place of torch's flash kernel.
        head_rows: rows of a block of the head's loss, halfstep's alone; 0: in one piece.
    """

    model: str
    tokens: int
    context: int
    vocabulary: int
    device: str
    files: list[str]
    compile: bool
    micro: int | None = None
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    attention: Literal["auto", "flash", "cudnn", "efficient", "fa3", "fa4"] = "auto"
    head_rows: int = 0
    grad_clip: float = 1.0

    @property
    def shape(self) -> dict[str, Any]:
        return {**section_of("model", self.model), "context": self.context, "vocabulary": self.vocabulary}

    @property
    def dtype(self) -> torch.dtype:
        return devices.resolve_dtype("auto", self.device)

    @property
    def data_tokens(self) -> int:
        """Return the ids that are the data's: all rows of the embedding but those that a masked model adds."""
        return self.vocabulary - find(self.shape["family"]).extra_tokens

    def build(self) -> Any:
        return check_model(self.shape, self.context, seed=0)(self.data_tokens).to(self.device)

    def choose(self) -> None:
        """Set what is the process's and not a model's."""
        block_rows(self.head_rows)
        if packaged := self.attention in ("fa3", "fa4"):
            torch.nn.attention.activate_flash_attention_impl(self.attention.upper())
        if self.attention != "auto":
            kernel, switches = "flash" if packaged else self.attention, torch.backends.cuda
            switches.enable_flash_sdp(kernel == "flash")
            switches.enable_cudnn_sdp(kernel == "cudnn")
            switches.enable_mem_efficient_sdp(kernel == "efficient")
            switches.enable_math_sdp(False)  # else a pass that the kernel cannot do would be timed under its name

    def forward(self, model: nn.Module) -> Any:
        if not self.compile:
            return model
        usual = devices.compiled(model)  # for every mode: it sets the compiler's guards, and compiles when it is called
        return usual if self.mode == "default" else torch.compile(model, mode=self.mode, dynamic=False)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32)

    def sequences_per_pass(self, attempt: Callable[[int, int], None]) -> int:
        return resolve_micro(self.micro or "auto", self.tokens // self.context, 1, self.context, self.device, attempt)


def section_of(group: str, name: str) -> dict[str, Any]:
    """Return the keys of configs/<group>/<name>.yaml, upon those of the files that its `defaults` name."""
    own = read_yaml(CONFIGS / group / f"{name}.yaml")
    below = [section_of(group, base) for base in own.pop("defaults", []) if base != "_self_"]
    return {key: value for section in (*below, own) for key, value in section.items()}


def optimizer_of(name: str, way: dict[str, Any], device: str = "cpu") -> OptimizerPlan:
    """Return the registered optimizer with its YAML's keywords, or the way's instead; ValueError for a wrong one."""
    return check_optimizer({**section_of("optimizer", name), **way}, [], device)


def period_of(keywords: dict[str, Any]) -> int:
    """Return the number of updates after which all repeats: by the keywords every, every_factor, ..."""
    return lcm(*(value for key, value in keywords.items() if key.partition("_")[0] == "every"))
