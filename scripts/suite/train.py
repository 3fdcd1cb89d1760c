"""bench_suite's part train: tokens per second of halfstep, nanoGPT and modded-nanogpt's track 3 on one card, in turns.

Then train.py's time to its first update, and the loss curve of its passes beside plain ones.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import device as devices
from optimizers import list_optimizers
from scripts.bench.contenders import FLASH_PACKAGES, find_model
from scripts.suite import curves, nanogpt_bench, start, track3
from scripts.suite.folder import Deadline, Folder
from scripts.suite.match import RESERVE, Match
from scripts.suite.program import Program
from scripts.suite.throughput import FILE, keep
from scripts.suite.train_plan import Plan, changes_of


def check_variant(text: str, sequences: int) -> str:
    """Raises ValueError for a variant that cannot be: of updates of so many sequences."""
    for key, value in changes_of(text).items():
        known = {"compile": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
                 "attention": ("auto", "flash", "cudnn", "efficient", *FLASH_PACKAGES),
                 "optimizer": [info.name for info in list_optimizers()]}  # fmt: skip
        if key not in (*known, "micro", "head_rows"):
            raise ValueError(f"--variants {text}: {key} is none of {', '.join(known)}, micro, head_rows")
        if key in known and value not in known[key]:
            raise ValueError(f"--variants {text}: {key} must be {', '.join(known[key])}, not {value}")
        if text.startswith("nanogpt:") and key in ("optimizer", "head_rows"):
            raise ValueError(f"--variants {text}: {key} is halfstep's alone")
        if key not in known and (not isinstance(value, int) or value < 1):
            raise ValueError(f"--variants {text}: {key} must be a whole number of at least 1")
        if key == "micro" and sequences % value:
            raise ValueError(f"--variants {text}: micro={value} does not divide the {sequences} sequences of an update")
    return text


def run(plan: Plan, folder: Folder, deadline: Deadline, say: Callable[[str], None]) -> int:
    """All that is missing, as far as the time goes; the files are whole after every round. What is left, in rounds."""
    book = opened(plan, folder)
    model = plan.models[0]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_tokens(plan, place)
        matches = [Match(plan, book, folder, deadline, say, place, *match) for match in plan.matches()]
        for match in matches:
            if deadline.left > RESERVE:
                match.run()
        if start.left(model, book) and deadline.left > RESERVE:
            start.add(book, folder, deadline, say, place, model, plan.tokens, plan.context, plan.device, plan.commit)
    keep(book, folder)
    pairs = curves.measure([plan.pair], plan.bed, book["curves"], deadline, RESERVE, say, plan.commit)
    keep(book, folder)
    return sum(match.left() for match in matches) + start.left(model, book) + pairs


def opened(plan: Plan, folder: Folder) -> dict[str, Any]:
    """What earlier calls left of it. Raises ValueError where that is of other settings."""
    identity = {
        **{"tokens": plan.tokens, "context": plan.context, "dtype": str(devices.resolve_dtype("auto", plan.device))},
        **{"vocabulary": plan.vocabulary, "device": devices.device_name(plan.device)},
    }
    book = folder.read(FILE, identity)
    for key in ("rounds", "failures", "micros", "start", "rows", "curves"):
        book.setdefault(key, [])
    for key in ("failures", "micros"):  # what failed, and what did not fit, is tried again once the code is another
        book[key] = [each for each in book[key] if each.get("commit") == plan.commit]
    return book


def write_tokens(plan: Plan, place: Path) -> None:
    """Random ones, which all sides train on."""
    tokens = np.random.default_rng(0).integers(0, min(plan.vocabulary, 50_257), max(2**20, 8 * plan.tokens))
    tokens.astype("<u2").tofile(place / "train.bin")


def peers(
    nanogpt: Path | None, theirs: Path | None, device: str, say: Callable[[str], None]
) -> tuple[Path | None, list[Program]]:
    """The file of nanoGPT's model, and the programs that run here; a sentence on each that is left out."""
    checkouts = [("nanogpt", "nanoGPT", nanogpt, nanogpt_bench.program),
                 ("track3", "modded-nanogpt", theirs, track3.program)]  # fmt: skip
    model = find_model(nanogpt) if nanogpt else None
    programs = []
    for option, name, checkout, program in checkouts:
        if checkout is None:
            say(f"{option} is left out: give --{option}, the path of a checkout of {name}")
        elif device.startswith("cuda"):
            programs.append(program(checkout))
        else:
            say(f"{program(checkout).name} is left out: it runs on CUDA alone")
    return model, programs


def divides(tokens: int, context: int) -> None:
    if context < 1 or tokens < context or tokens % context:
        near = max(1, math.floor(tokens / max(1, context))) * max(1, context)
        raise ValueError(f"--tokens must be a multiple of --context={context}, {near} for one, not {tokens}")
