"""Times halfstep's training step, beside nanoGPT's model and loop where a checkout of it is given, turn by turn.

    python -m scripts.bench_train
    python -m scripts.bench_train --nanogpt ../nanoGPT --model gpt2_nano --vocabulary 50304 --sequences 8

Expect tokens/s of each (median and range over the rounds), their ratio, and a table of where a step's time goes: every
part timed alone at the step's shapes, beside what its matrix products would take at the machine's best. Both sides
train the same shape on the same tokens with the same AdamW, each as its own train.py would on this device.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from harness import device as devices
from harness.sentence import one_sentence
from scripts.bench.contenders import Contender, Halfstep, NanoGPT, Setting, find_model

ROOT = Path(__file__).parent.parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; without it halfstep runs alone")
    parser.add_argument("--model", default="gpt2_nano", help="a file of configs/model (default: gpt2_nano)")
    parser.add_argument("--vocabulary", type=int, default=256, help="rows of the embedding (default: 256)")
    parser.add_argument("--context", type=int, help="tokens per sequence (default: the model's)")
    parser.add_argument("--sequences", type=int, default=16, help="per update (default: 16)")
    parser.add_argument("--micro", type=int, help="sequences per pass (default: all of them)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: 9)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    options = parser.parse_args(arguments)
    with one_sentence(), tempfile.TemporaryDirectory() as folder:
        setting = read_setting(options, Path(folder))
        makers: dict[str, Callable[[], Contender]] = {"halfstep": partial(Halfstep, setting)}
        if options.nanogpt:
            makers["nanoGPT"] = partial(NanoGPT, setting, find_model(options.nanogpt))
        result = measure(setting, makers, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result, Console())


def read_setting(options: argparse.Namespace, folder: Path) -> Setting:
    """What both sides train on: the shape, the batch, the device, and a file of random tokens."""
    path = ROOT / "configs" / "model" / f"{options.model}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ValueError(f"--model must be one of {known}, not {options.model}")
    shape = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("sequences", "context", "micro", "rounds"):
        if (value := getattr(options, key)) is not None and value < 1:
            raise ValueError(f"--{key} must be at least 1, not {value}")
    context, micro = options.context or shape["context"], options.micro or options.sequences
    if context > shape["context"]:
        raise ValueError(f"--context must be at most the model's {shape['context']}, not {context}")
    if options.sequences % micro:
        raise ValueError(f"--micro must divide --sequences={options.sequences}, and {micro} does not")
    if not 1 <= options.vocabulary <= 2**16:
        raise ValueError(f"--vocabulary must be between 1 and 65536, not {options.vocabulary}")
    tokens = np.random.default_rng(0).integers(0, options.vocabulary, max(2**20, 4 * options.sequences * context))
    tokens.astype("<u2").tofile(folder / "train.bin")
    place = devices.resolve_device(options.device)
    return Setting(
        layers=shape["layers"],
        heads=shape["heads"],
        width=shape["width"],
        context=context,
        vocabulary=options.vocabulary,
        sequences=options.sequences,
        micro=micro,
        tokens=folder / "train.bin",
        device=place,
        dtype=devices.resolve_dtype("auto", place),
        compiled=devices.resolve_compile("auto", place),
    )


def measure(
    setting: Setting, makers: Mapping[str, Callable[[], Contender]], rounds: int, seconds: float
) -> dict[str, Any]:
    """Rates over interleaved turns, the ratio of each round, and the parts of a step.

    Each side lives in a process of its own, with its own switches and its own memory, and rests while the other runs.
    """
    with ExitStack() as stack:
        sides = {name: stack.enter_context(alone(make)) for name, make in makers.items()}
        steps = {}
        for name, side in sides.items():
            side.submit(turn, 3).result()  # warm up, and compile
            steps[name] = max(1, round(3 * seconds / side.submit(turn, 3).result()))
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                rates[name].append(steps[name] * setting.batch_tokens / side.submit(turn, steps[name]).result())
        ours = sides["halfstep"]
        about, peak = ours.submit(describe).result(), ours.submit(best_products, setting).result()
        result: dict[str, Any] = {
            "setting": setting.json(),
            "machine": {**devices.describe(setting.device), "matmul_peak": peak, "kernels": about["kernels"]},
            "tokens_per_second": {name: spread(values) for name, values in rates.items()},
            "share_of_peak": {
                name: statistics.median(values) * about["flops_per_token"] / peak for name, values in rates.items()
            },
            "parts": {name: side.submit(parts, setting, max(rates[name])).result() for name, side in sides.items()},
            "floor": floors(setting, about["flops_per_token"], peak),
        }
    if "nanoGPT" in rates:
        result["ratio"] = spread([a / b for a, b in zip(rates["halfstep"], rates["nanoGPT"], strict=True)])
    return result


def alone(make: Callable[[], Contender]) -> ProcessPoolExecutor:
    """A process that holds one contender, for the functions below to be submitted to."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=enter, initargs=(make,))


contender: Contender  # of this process


def enter(make: Callable[[], Contender]) -> None:
    global contender
    contender = make()


def turn(steps: int) -> float:
    return contender.turn(steps)


def describe() -> dict[str, Any]:
    return {"kernels": contender.kernels, "flops_per_token": contender.flops_per_token}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def best_products(setting: Setting) -> float:
    """FLOP/s of the fastest of a few matrix products, with halfstep's kernels, in the run's dtype."""
    best = 0.0
    for n in (512, 1024, 2048, 4096 if setting.device == "cpu" else 8192):
        a, b = (torch.randn(n, n, device=setting.device, dtype=setting.dtype) for _ in range(2))
        best = max(best, 2 * n**3 / timed(setting, partial(torch.matmul, a, b)))
    return best


def parts(setting: Setting, rate: float) -> dict[str, float]:
    """Seconds per update of each part, timed alone at its best; `rest` is what they leave of the fastest turn's."""
    passes = setting.sequences // setting.micro
    found = {
        "linear layers": passes * sum(linear(setting, layer) for layer in contender.linear_layers()),
        "attention": passes * setting.layers * attention(setting),
        "head and loss": passes * head_and_loss(setting),
        "clip and update": timed(setting, contender.update),
    }
    return {**found, "rest": setting.batch_tokens / rate - sum(found.values())}


def linear(setting: Setting, layer: nn.Linear) -> float:
    x = torch.randn(setting.micro * setting.context, layer.in_features, device=setting.device, requires_grad=True)
    return both_ways(setting, lambda: layer(x), [x, *layer.parameters()])


def attention(setting: Setting) -> float:
    """Of one block, with the copies that its layout costs: the heads lie side by side in (B, T, 3 width)."""
    shape = (setting.micro, setting.context, 3 * setting.width)
    qkv = torch.randn(shape, device=setting.device, requires_grad=True)

    def forward() -> torch.Tensor:
        q, k, v = (x.unflatten(2, (setting.heads, -1)).transpose(1, 2) for x in qkv.split(setting.width, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(setting.micro, setting.context, setting.width)

    return both_ways(setting, forward, [qkv])


def head_and_loss(setting: Setting) -> float:
    rows = setting.micro * setting.context
    x = torch.randn(rows, setting.width, device=setting.device, requires_grad=True)
    targets = torch.randint(setting.vocabulary, (rows,), device=setting.device)
    return both_ways(setting, lambda: contender.head_loss(x, targets), [x, contender.embedding])


def both_ways(setting: Setting, forward: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> float:
    """Seconds of a forward and backward pass."""

    def run() -> None:
        with setting.autocast():
            y = forward()
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    return timed(setting, run)


def timed(setting: Setting, function: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of a call, the least of a few: on a machine that is shared, the one that was disturbed the least."""
    seconds = []
    for _ in range(repeats):
        setting.wait()
        start = time.perf_counter()
        function()
        setting.wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def floors(setting: Setting, flops_per_token: int, peak: float) -> dict[str, float]:
    """Seconds per update that the matrix products of each part would take at the machine's best."""
    attention = 12 * setting.layers * setting.width * setting.context
    head = 6 * setting.vocabulary * setting.width
    flops = {"linear layers": flops_per_token - attention - head, "attention": attention, "head and loss": head}
    return {name: setting.batch_tokens * value / peak for name, value in flops.items()}


def show(result: dict[str, Any], console: Console) -> None:
    machine, setting = result["machine"], result["setting"]
    console.print(
        "{layers} layers, width {width}, vocabulary {vocabulary}, {dtype}; {sequences} x {context} tokens, {micro} "
        "sequences per pass\n".format(**setting)
        + f"{machine['name']}, {machine['threads']} threads, {machine['kernels']} kernels, "
        f"products at {machine['matmul_peak'] / 1e9:,.0f} GFLOP/s at best",
        highlight=False,
    )
    names = list(result["tokens_per_second"])
    table = Table(box=SIMPLE_HEAD)
    for column in ("", "tokens/s", "lowest", "highest", "of the matmul peak"):
        table.add_column(column, justify="left" if not column else "right")
    for name in names:
        rate = result["tokens_per_second"][name]
        rates = (f"{rate[key]:,.0f}" for key in ("median", "low", "high"))
        table.add_row(name, *rates, f"{result['share_of_peak'][name]:.0%}")
    if "ratio" in result:
        table.add_row("ratio", *(f"{result['ratio'][key]:.2f}" for key in ("median", "low", "high")), "")
    console.print(table)
    table = Table(box=SIMPLE_HEAD, title="ms per update, at best")
    for column in ("", *names, "at the matmul peak"):
        table.add_column(column, justify="left" if not column else "right")
    for part in result["parts"][names[0]]:
        floor = result["floor"].get(part)
        cells = (f"{result['parts'][name][part] * 1e3:.1f}" for name in names)
        table.add_row(part, *cells, "" if floor is None else f"{floor * 1e3:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
