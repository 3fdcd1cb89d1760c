"""Measures optimizers, and halfstep itself, on one device: updates, throughput, steps, drift; in stretches of minutes.

    python -m scripts.bench all --minutes 9 --nanogpt ../nanoGPT --track3 ../modded-nanogpt --reference soap=../SOAP
    python -m scripts.bench train --nanogpt ../nanoGPT --model gpt2_nano --vocabulary 50304 --tokens 4096
    python -m scripts.bench step --only soap,lion --reference soap=../SOAP
    python -m scripts.bench all --rehearse                     # the same on a tiny model: minutes on any CPU

A call goes on where the last one stopped, after a kill too, and prints its tables last. Each round is appended to
results/hardware/<device>/measurements.jsonl, with its commit. `all` begins with twelve updates of every optimizer.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.config_keys import CONFIGS
from conventions.paths import expanded, path_argument
from conventions.sentence import Arguments, nearest, one_sentence
from conventions.terminal_table import console, terminal_table
from conventions.yaml_file import parse_yaml
from harness import device as devices
from harness.origin import command, git_state, versions
from judge.hardware import HARDWARE, folder_name, grids
from judge.measurement_store import Store
from optimizers import list_optimizers
from scripts.bench.plan import Plan, book
from scripts.bench.scheduler import Scheduler
from scripts.bench.setting import section_of

PARTS = {"updates": ("updates",), "train": ("products", "train", "whole"), "step": ("products", "step"),
         "drift": ("drift",)}  # fmt: skip
PARTS["all"] = tuple(part for parts in PARTS.values() for part in parts)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with one_sentence():
        device, held = devices.resolve_device(options.device), book(options.rehearse)
        name = devices.device_name(device)
        usual = Path("results/runs/rehearsal") if options.rehearse else Path("results", HARDWARE, folder_name(name))
        place = options.output or usual
        options.scratch = (place / ".scratch").resolve()
        wanted = Plan(held, options, device, check(options, held)).measurements(PARTS[options.part])
        git = git_state()
        store = Store(place, {**git, "commit": git["commit"] or options.commit, "device": name}, options.again)
        scheduler = Scheduler(store, 60 * options.minutes, options.scratch, lambda text: print(text, flush=True))
        with store.held():
            store.add({"what": "call", "argv": command(), "facts": devices.describe(device), "versions": versions()})
            try:
                scheduler.run(wanted)
            except KeyboardInterrupt:
                print("interrupted")
        for grid in grids(store.lines, held):
            console().print("", terminal_table(grid, grid.header[:2]))
        left = len(scheduler.missing(wanted))
        print(f"{left} measurements left: the same command goes on" if left else "nothing is left of this part")


def check(options: argparse.Namespace, held: dict[str, Any]) -> dict[str, Path]:
    """Return the checkouts by name. Splits what names several things, and puts what is asked for into the book.

    Raises ValueError, or FileNotFoundError for a checkout without the files that are read.
    """
    known = [info.name for info in list_optimizers()]
    for key in ("minutes", "seconds", "rounds", "tokens", "context"):
        if (value := getattr(options, key)) is not None and not 0 < value < math.inf:
            raise ValueError(f"--{key} must be above 0, not {value:g}")
    if options.vocabulary is not None and options.vocabulary < 256:
        raise ValueError(f"--vocabulary must be at least 256, for bytes are trained on, not {options.vocabulary}")
    for key in ("model", "only", "variants"):
        setattr(options, key, [word for word in (getattr(options, key) or "").split(",") if word])
    held["train"] |= {k: v for k in ("tokens", "context", "vocabulary") if (v := getattr(options, k))}
    if held["train"]["tokens"] % held["train"]["context"]:
        raise ValueError(f"--tokens must be a multiple of --context={held['train']['context']}")
    for model in options.model:
        if options.context and options.context > (longest := section_of("model", model)["context"]):
            raise ValueError(f"--context {options.context} is longer than the {longest} of {model}: lower it")
    checkouts = {name: path for name in ("nanogpt", "track3") if (path := getattr(options, name))}
    for text in options.reference:
        if not text.partition("=")[2]:
            raise ValueError(f"--reference {text}: give NAME=PATH, the optimizer and a checkout, as in soap=../SOAP")
    for text in options.way:
        if not text.split()[1:] or any("=" not in pair for pair in text.split()[1:]):
            raise ValueError(f"--way {text!r}: give NAME KEY=VALUE, as in --way 'soap stagger=true'")
    references = [text.partition("=") for text in options.reference]
    checkouts |= {name: expanded(path, "--reference") for name, _, path in references}
    ways = [(name, "\n".join(pairs).replace("=", ": ")) for name, *pairs in map(str.split, options.way)]
    options.way = [{"optimizer": name, "way": parse_yaml(pairs, f"--way {name}")} for name, pairs in ways]
    models, others = [path.stem for path in (CONFIGS / "model").glob("*.yaml")], [*known, "nanogpt", "track3"]
    for option, names, there in (("--model", options.model, models), ("--only", options.only, known),
                                 ("--way", [each["optimizer"] for each in options.way], known),
                                 ("--reference", list(checkouts), others)):  # fmt: skip
        if wrong := next((name for name in names if name not in there), None):
            raise ValueError(f"{option}: there is no {wrong}; {nearest(wrong, there)}")
    for name, path in checkouts.items():
        files = [each["file"] for each in held["programs"] if each["checkout"] == name]
        files += [each["file"] for each in held["references"] if each["optimizer"] == name and "file" in each]
        if not any((path / file).is_file() for file in files):
            raise FileNotFoundError(f"{path} is no checkout for {name}: it holds no {' or '.join(files or ['code'])}")
    return checkouts


def parser() -> Arguments:
    made = Arguments.of("scripts.bench", __doc__, whole=True)
    add = made.add_argument
    add("part", nargs="?", default="all", choices=PARTS, help="what to measure (default: all)")
    add("--minutes", type=float, default=9.0, help="length of this call (default: 9)")
    add("--model", help="files of configs/model, commas between (default: by configs/bench.yaml)")
    add("--only", help="names of optimizers, commas between")
    add("--nanogpt", type=path_argument, metavar="PATH", help="a checkout of nanoGPT")
    add("--track3", type=path_argument, metavar="PATH", help="a checkout of modded-nanogpt (CUDA alone)")
    add("--reference", action="append", default=[], metavar="NAME=PATH", help="a checkout of another implementation")
    add("--way", action="append", default=[], metavar="'NAME KEY=VALUE'", help="another way to an optimizer's step")
    add("--variants", help="of throughput, commas between, + joins: mode=max-autotune,attention=cudnn+micro=32,"
                           "head_rows=8192,nanogpt:micro=16")  # fmt: skip
    for key, help in [("tokens", "per update"), ("context", "tokens per sequence"), ("rounds", "of what takes turns"),
                      ("vocabulary", "rows of the embedding")]:  # fmt: skip
        add(f"--{key}", type=int, help=help)
    add("--seconds", type=float, help="of a turn (default: 2 on a GPU, .4 on a CPU)")
    add("--compile", default="auto", choices=("auto", "true", "false"), help="default: auto, on CUDA")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--output", type=path_argument, help=f"the folder of the store (default: results/{HARDWARE}/<device>/)")
    add("--commit", help="of this tree, where it is a copy without git")
    add("--again", action="store_true", help="measure anew what another commit measured")
    add("--rehearse", action="store_true", help="tiny models and few updates, into results/runs/rehearsal/")
    return made


if __name__ == "__main__":
    main()
