"""Everything that is measured on one device: throughput and optimizers' steps; in stretches of some minutes.

    python -m scripts.bench_suite --part train --minutes 9 --nanogpt ../nanoGPT --track3 ../modded-nanogpt
    python -m scripts.bench_suite --part train --variants attention=cudnn,compile=max-autotune-no-cudagraphs,micro=32
    python -m scripts.bench_suite --part optimizers --minutes 9 --reference soap=../SOAP
    python -m scripts.bench_suite --part train --rehearse      # the same on a tiny model: minutes on any CPU

A call goes on where the last one stopped and prints its table last; what was measured is in results/hardware/<device>/:
throughput.json, optimizers.json, tables of them as Markdown, manifest.json. A part is done when a call
says that nothing is left. After the rates of part train come train.py's start and the loss curve of its passes beside
plain ones; after the steps of part optimizers, whole updates of those that ask for more than a gradient and a step, and
how exact the quicker ways are.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from conventions.config_keys import CONFIGS
from conventions.sentence import nearest, one_sentence
from harness import device as devices
from optimizers import list_optimizers
from scripts.bench import drift
from scripts.bench.pairs import pairs
from scripts.bench.references import find_references
from scripts.suite import curves, throughput
from scripts.suite import optimizers as suite_optimizers
from scripts.suite import train as suite_train
from scripts.suite.folder import Call, Deadline, Folder, commit_of, folder_name

HARDWARE = Path("results/hardware")
REHEARSAL = Path("results/runs/rehearsal")
MODELS = {"train": "gpt2_125m,gpt2_355m,gpt2_770m", "optimizers": "gpt2_125m,gpt2_355m"}
VOCABULARY = 50304  # GPT-2's, as train.py pads it
Run = Callable[[Folder, Deadline, Callable[[str], None]], int]  # how much of a part is left after a call


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    with one_sentence():
        _check(options)
        if options.commit:
            os.environ["HALFSTEP_COMMIT"] = options.commit  # for the manifests of the runs that are begun here
        deadline = Deadline(options.minutes)
        device = devices.resolve_device(options.device)
        place = REHEARSAL if options.rehearse else HARDWARE / folder_name(devices.device_name(device))
        call = Call(options.part, arguments, devices.describe(device), commit_of(options.commit))
        folder = Folder(options.output or place, call, options.again)
        run = PARTS[options.part](options, device, call.git["commit"])
        with folder.held():
            left = run(folder, deadline, say)
        table = (folder.path / TABLES[options.part]).read_text(encoding="utf-8")
        print(f"\n{table}")
        print(f"{left} left: the same command goes on" if left else "nothing is left of this part")


def train(options: argparse.Namespace, device: str, commit: str | None) -> Run:
    tokens, context = _tokens(options), _context(options)
    suite_train.divides(tokens, context)
    variants = [suite_train.check_variant(text, tokens // context) for text in _words(options.variants)]
    if options.nanogpt is None and any(text.startswith("nanogpt:") for text in variants):
        raise ValueError("--variants nanogpt:... are nanoGPT's: give --nanogpt, the path of a checkout of it")
    nanogpt, programs = suite_train.peers(options.nanogpt, options.track3, device, say)
    plan = suite_train.Plan(
        models=_models(options, "train"), vocabulary=_vocabulary(options), tokens=tokens, context=context,
        seconds=_seconds(options),
        rounds=options.rounds or (2 if options.rehearse else 5),
        variants=variants,
        nanogpt=nanogpt, programs=programs, device=device, commit=commit, bed=_curves(options, device),
    )  # fmt: skip
    return partial(suite_train.run, plan)


def optimizers(options: argparse.Namespace, device: str, commit: str | None) -> Run:
    known, only = {info.name for info in list_optimizers()}, _words(options.only)
    references = [(name, Path(path).absolute()) for name, path in pairs(options.reference, "--reference", "NAME=PATH")]
    for name in [*only, *(name for name, _ in references)]:
        if name not in known:
            raise ValueError(f"no optimizer {name} is registered; {nearest(name, known)}")
    for name, path in references:
        find_references(name, path)
        if only and name not in only:
            raise ValueError(f"--reference {name} is of no use: --only leaves it out")
    plan = suite_optimizers.Plan(
        models=_models(options, "optimizers"), only=only, vocabulary=_vocabulary(options), context=_context(options),
        tokens=_tokens(options), seconds=_seconds(options),
        rounds=options.rounds or (1 if options.rehearse else 5), device=device,
        references=[f"{name}={path}" for name, path in references],
        commit=commit, drift_bed=_drift(options, device), curve_bed=_curves(options, device),
    )  # fmt: skip
    return partial(suite_optimizers.run, plan)


PARTS = {"train": train, "optimizers": optimizers}
TABLES = {"train": throughput.TABLE, "optimizers": suite_optimizers.TABLE}


# Options that are not of every part.
OPTIONS = {
    "train": ("model", "context", "vocabulary", "rounds", "tokens", "seconds", "nanogpt", "track3", "variants"),
    "optimizers": ("model", "context", "vocabulary", "rounds", "only", "reference"),
}


def _check(options: argparse.Namespace) -> None:
    """What can be wrong in any part: a failure that is recorded must be the code's."""
    for key in sorted({key for keys in OPTIONS.values() for key in keys}):
        owners = [part for part, keys in OPTIONS.items() if key in keys]
        if options.part not in owners and getattr(options, key) not in (None, []):
            raise ValueError(f"--{key} is of the part{'s' * (len(owners) > 1)} {' and '.join(owners)} alone")
    for key in ("minutes", "seconds", "rounds", "tokens", "context"):
        value = getattr(options, key)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{key} must be above 0, not {value:g}")
    if options.vocabulary is not None and options.vocabulary < 256:
        raise ValueError(f"--vocabulary must be at least 256, as the curves train on bytes, not {options.vocabulary}")


def say(text: str) -> None:
    print(text, flush=True)


def _models(options: argparse.Namespace, part: str) -> list[str]:
    known = [path.stem for path in (CONFIGS / "model").glob("*.yaml")]
    found = _words(options.model or ("gpt2_pico" if options.rehearse else MODELS[part]))
    for name in found:
        if name not in known:
            raise ValueError(f"--model: there is no {name}; {nearest(name, known)}")
    return found


def _context(options: argparse.Namespace) -> int:
    return options.context or (128 if options.rehearse else 1024)


def _tokens(options: argparse.Namespace) -> int:
    return options.tokens or (512 if options.rehearse else 524_288)


def _seconds(options: argparse.Namespace) -> float:
    return options.seconds or (0.1 if options.rehearse else 10.0)


def _vocabulary(options: argparse.Namespace) -> int:
    return options.vocabulary or (256 if options.rehearse else VOCABULARY)


def _curves(options: argparse.Namespace, device: str) -> curves.Bed:
    """Small enough for a minute or so of float32 on a GPU."""
    if options.rehearse:
        return curves.Bed("gpt2_pico", 512, 128, _vocabulary(options), 20, device)
    return curves.Bed("gpt2_30m", 32_768, 1024, _vocabulary(options), 300, device)


def _drift(options: argparse.Namespace, device: str) -> drift.Bed:
    shape = (2, 2, 64, 64, 4, 20) if options.rehearse else (2, 6, 384, 256, 32, 100)
    return drift.Bed(*shape, device)


def _words(text: str | None) -> list[str]:
    return list(dict.fromkeys(text.split(","))) if text else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench_suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--part", required=True, choices=PARTS, help="what to measure")
    add("--minutes", type=float, default=9.0, help="length of this call (default: 9)")
    add("--output", type=Path, help=f"the folder of results (default: {HARDWARE}/<device>/)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--commit", help="of this tree, where it is a copy without git")
    add("--again", action="store_true", help="measure anew what another commit measured")
    add("--rehearse", action="store_true", help=f"tiny models and a few updates, into {REHEARSAL}/")
    group = parser.add_argument_group("train and optimizers")
    add = group.add_argument
    add("--model", help=f"files of configs/model, commas between (default: {MODELS['train']}; the first two)")
    add("--context", type=int, help="tokens per sequence (default: 1024)")
    add("--vocabulary", type=int, help=f"rows of the embedding (default: {VOCABULARY})")
    add("--rounds", type=int, help="turns of each (default: 5)")
    group = parser.add_argument_group("train")
    add = group.add_argument
    add("--tokens", type=int, help="per update (default: 524288)")
    add("--seconds", type=float, help="length of a turn (default: 10)")
    add("--nanogpt", type=Path, help="a checkout of nanoGPT")
    add("--track3", type=Path, help="a checkout of modded-nanogpt (CUDA alone)")
    add("--variants", help="commas between, + joins: compile=max-autotune-no-cudagraphs,attention=cudnn+micro=32,"
                           "optimizer=soap,head_rows=8192,nanogpt:micro=16")  # fmt: skip
    group = parser.add_argument_group("optimizers")
    add = group.add_argument
    add("--only", help="names of optimizers, commas between")
    add("--reference", action="append", default=[], metavar="NAME=PATH", help="a checkout of another implementation")
    return parser


if __name__ == "__main__":
    main()
