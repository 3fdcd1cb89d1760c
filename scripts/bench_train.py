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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from conventions.sentence import one_sentence
from harness import device as devices
from scripts.bench import side
from scripts.bench.contenders import Contender, Halfstep, NanoGPT, Setting, find_model
from scripts.bench.parts import floors
from scripts.bench.side import Side
from scripts.bench.timing import best_products, spread

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
        sides = {name: stack.enter_context(Side(make)) for name, make in makers.items()}
        steps = {}
        for name, one in sides.items():
            one.ask(None, side.turn, 3)  # warm up, and compile
            steps[name] = max(1, round(3 * seconds / one.ask(None, side.turn, 3)))
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, one in sides.items():
                rates[name].append(steps[name] * setting.batch_tokens / one.ask(None, side.turn, steps[name]))
        ours = sides["halfstep"]
        about, peak = ours.ask(None, side.about), ours.ask(None, best_products, setting)
        result: dict[str, Any] = {
            "setting": setting.json(),
            "machine": {**devices.describe(setting.device), "matmul_peak": peak, "kernels": about["kernels"]},
            "tokens_per_second": {name: spread(values) for name, values in rates.items()},
            "share_of_peak": {
                name: statistics.median(values) * about["flops_per_token"] / peak for name, values in rates.items()
            },
            "parts": {name: one.ask(None, side.parts, max(rates[name])) for name, one in sides.items()},
            "floor": floors(setting, about["flops_per_token"], peak),
        }
    if "nanoGPT" in rates:
        result["ratio"] = spread([a / b for a, b in zip(rates["halfstep"], rates["nanoGPT"], strict=True)])
    return result


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
