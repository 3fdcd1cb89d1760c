"""What part train of bench_suite is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conventions.config_keys import CONFIGS
from harness import device as devices
from harness.pass_sizes import CPU_TOKENS, CUDA_TOKENS, divisors
from scripts.bench.contenders import Setting
from scripts.suite import curves
from scripts.suite.beside import PLAIN
from scripts.suite.program import Program


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        tokens, context: of an update, of a sequence.
        seconds: of a turn.
        rounds: of every match.
        variants: of halfstep, as key=value with + between; nanogpt:key=value is one of nanoGPT.
        nanogpt: the file of its model.
        programs: others' that are timed beside the plain sides.
    """

    models: list[str]
    vocabulary: int
    tokens: int
    context: int
    seconds: float
    rounds: int
    variants: list[str]
    nanogpt: Path | None
    programs: list[Program]
    device: str
    commit: str | None
    bed: curves.Bed

    @property
    def pair(self) -> curves.Pair:
        """The passes that a GPU chooses, beside eager ones in float32."""
        quick = "bfloat16, compiled" if devices.resolve_compile("auto", self.device) else "bfloat16"
        return curves.Pair(quick, ("compile=false", "dtype=float32"), ("compile=auto", "dtype=bfloat16"))

    def setting(self, model: str, folder: Path) -> Setting:
        shape = yaml.safe_load((CONFIGS / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
        return Setting(
            layers=shape["layers"], heads=shape["heads"], width=shape["width"], context=self.context,
            vocabulary=self.vocabulary, sequences=self.tokens // self.context, micro=0, tokens=folder / "train.bin",
            device=self.device, dtype=devices.resolve_dtype("auto", self.device),
            compiled=devices.resolve_compile("auto", self.device),
        )  # fmt: skip

    @property
    def micros(self) -> list[int]:
        """Sequences per pass: the first that fits the memory is taken, by nanoGPT too."""
        most = CUDA_TOKENS if self.device.startswith("cuda") else CPU_TOKENS
        return [d for d in divisors(self.tokens // self.context) if d == 1 or d * self.context <= most]

    def matches(self) -> list[tuple[str, str]]:
        """(model, variant): the plain ones first."""
        return [(model, variant) for variant in [PLAIN, *self.variants] for model in self.models]


def changes_of(variant: str) -> dict[str, Any]:
    """Of a setting, in its words."""
    if variant == PLAIN:
        return {}
    pairs = [pair.partition("=") for pair in variant.removeprefix("nanogpt:").split("+")]
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}
