"""Times the steps of optimizers beside torch's fused AdamW, and beside others' implementations, turn by turn.

    python -m scripts.bench_optimizers --only lion,soap
    python -m scripts.bench_optimizers --only soap --reference soap=../SOAP --set soap.stagger=true --json soap.json

Expect a table: milliseconds of a plain step, of one that refreshes (a basis, a curvature) and of the mean over a
period; that mean as a multiple of AdamW's step, the median and range over the rounds; the slowest step over the mean;
bytes of state per parameter; the least that the mean can be (scripts/bench/floor.py). Each implementation has its own
copy of one model, gets the same random gradients, and rests while the others run; ours with compiled kernels goes on
from ours without. What does not run of others' is left out with a word. A step's time is that of the optimizer alone:
gradients, Hessian-vector products, drawing their probes, and a model's passes are given. What hooks add to a pass is
told apart.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from conventions import atomic
from conventions.config_keys import CONFIGS
from conventions.keywords import bind, in_section
from conventions.sentence import nearest, one_sentence
from harness import device as devices
from harness.kernels import choose_kernels
from harness.origin import git_state, versions
from optimizers import OptimizerInfo, list_optimizers
from optimizers.kernels import compile_kernels
from scripts.bench.pairs import pairs
from scripts.bench.references import find_references
from scripts.bench.rounds import measure
from scripts.bench.stand import Shape

Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with one_sentence(), threads(options.threads):
        shape, place, checkouts, wanted = read_options(options)
        compiled = devices.resolve_compile({"true": True, "false": False}.get(options.compile, "auto"), place)
        compile_kernels(compiled)  # or say why not
        if compiled:
            devices.leave_at_once()
        result: dict[str, Any] = {
            "setting": {**vars(shape), "rounds": options.rounds},
            "machine": {**devices.describe(place), "kernels": choose_kernels(place, shape.tokens)},
            "versions": versions(),
            "git": git_state(),
            "rows": [],
            "failures": [],
        }
        show_head(result, console := Console(width=120, highlight=False))
        for info, keywords in wanted:
            rows, failures = result["rows"], result["failures"]
            references = [] if options.alone else find_references(info.name, checkouts.get(info.name))
            for found in measure(info, keywords, shape, place, compiled, references, options.rounds):
                result |= {"rows": [*rows, *found.rows], "failures": [*failures, *found.failures]}
                if options.json:  # after each turn: hours may be lost otherwise
                    atomic.write_text(options.json, json.dumps(result, indent=1) + "\n")
            for row in result["rows"][len(rows) :]:
                console.print("{0} by {1}: {4} ms, {5} ({6}) times AdamW".format(*cells(row)))
            for each in result["failures"][len(failures) :]:
                console.print("{optimizer} by {implementation} does not run: {error}".format(**each))
        show(result["rows"], console)


def parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").split("\n")[0]
    made = argparse.ArgumentParser(prog="python -m scripts.bench_optimizers", description=about)
    made.add_argument("--only", help="optimizers, separated by commas (default: all that are registered)")
    made.add_argument("--reference", action="append", default=[], metavar="NAME=PATH",
                      help="a checkout of another implementation of that optimizer; may be given again")  # fmt: skip
    made.add_argument("--alone", action="store_true", help="leave out all that is others', what is installed too")
    made.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE",
                      help="another value than configs/optimizer/NAME.yaml's; may be given again")  # fmt: skip
    made.add_argument("--layers", type=int, default=12, help="blocks of GPT-2 (default: 12)")
    made.add_argument("--width", type=int, default=384, help="of each (default: 384)")
    made.add_argument("--vocabulary", type=int, default=0, help="rows of an embedding; 0: none (the default)")
    made.add_argument("--tokens", type=int, default=1024, help="of a pass that hooks see (default: 1024)")
    made.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    made.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    made.add_argument("--compile", default="auto", choices=("auto", "true", "false"),
                      help="time compiled kernels too, where there are any (default: auto, on CUDA)")  # fmt: skip
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    made.add_argument("--json", type=Path, help="write everything that was measured to this file")
    return made


@contextmanager
def threads(count: int) -> Iterator[None]:
    if count < 1:
        raise ValueError(f"--threads must be at least 1, not {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_options(
    options: argparse.Namespace,
) -> tuple[Shape, str, dict[str, Path], list[tuple[OptimizerInfo, dict[str, Any]]]]:
    """The shape, the device, checkouts by optimizer, and what to time with its keywords; all that can be wrong."""
    for key, least in [("layers", 1), ("width", 1), ("vocabulary", 0), ("tokens", 1), ("rounds", 1)]:
        if getattr(options, key) < least:
            raise ValueError(f"--{key} must be at least {least}, not {getattr(options, key)}")
    if options.json and not options.json.absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {options.json}: there is no folder {options.json.absolute().parent}")
    place = devices.resolve_device(options.device)
    known = {info.name: info for info in list_optimizers()}
    names = list(dict.fromkeys(options.only.split(","))) if options.only else sorted(known)
    checkouts = {name: Path(path) for name, path in pairs(options.reference, "--reference", "NAME=PATH")}
    others: dict[str, dict[str, Any]] = {}
    for where, value in pairs(options.set, "--set", "NAME.KEY=VALUE"):
        name, _, key = where.partition(".")
        others.setdefault(name, {})[key] = value
    for option, asked in [("only", names), ("reference", checkouts), ("set", others)]:
        for name in asked:
            if name not in known:
                raise ValueError(f"--{option}: no optimizer {name} is registered; {nearest(name, known)}")
            if name not in names:
                raise ValueError(f"--{option} {name} is of no use: --only leaves it out")
    wanted = []
    for name in names:
        find_references(name, checkouts.get(name))
        dotted = [f"{key}={value}" for key, value in others.get(name, {}).items()]
        section = OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml")
        section = OmegaConf.merge(section, OmegaConf.from_dotlist(dotted))
        values = cast(dict[str, Any], OmegaConf.to_container(section))
        keywords = bind(known[name].constructor, values, "optimizer", ["params"])
        with in_section("optimizer", keywords):
            known[name].build(torch.nn.Linear(2, 2, device=place), **keywords)  # some keywords are CUDA's alone
        wanted.append((known[name], keywords))
    shape = Shape(options.layers, options.width, options.vocabulary, options.tokens)
    return shape, place, checkouts, wanted


COLUMNS = ("optimizer", "by", "plain", "refresh", "mean", "x AdamW", "range", "worst/mean", "bytes", "hooks", "floor")
TITLE = "ms per step (hooks: what they add to the passes, a step; floor: the least); bytes of state per parameter"


def cells(row: dict[str, Any]) -> list[str]:
    def figure(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    ratio = row["ratio"]
    return [
        row["optimizer"],
        row["implementation"],
        *(figure(row[key], 2) for key in ("plain_ms", "refresh_ms", "amortised_ms")),
        f"{ratio['median']:.3g}",
        f"{ratio['low']:.3g}-{ratio['high']:.3g}",
        figure(row["worst_over_mean"], 2),
        figure(row["state_bytes_per_parameter"], 1),
        figure(row["hooks_ms_per_step"], 2),
        figure(row["floor_ms"], 2),
    ]


def show_head(result: dict[str, Any], console: Console) -> None:
    setting, machine = result["setting"], result["machine"]
    embedding = f"an embedding of {setting['vocabulary']} rows" if setting["vocabulary"] else "no embedding"
    console.print(
        f"{setting['layers']} blocks of width {setting['width']}, {embedding}; {machine['name']}, "
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}, {machine['kernels']} kernels"
    )


def show(rows: Rows, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, title=TITLE, padding=(0, 0, 0, 1))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)


if __name__ == "__main__":
    main()
