"""Times nanoGPT's bench.py as it is: GPT-2 small, an optimizer's step after every pass, no clipping, one batch for all.

Its passes are those of its train.py, whose loop is measured as the system nanogpt; of an update it does more steps.
"""

import re
from functools import partial
from pathlib import Path

from scripts.suite.program import Program, Reader

MODEL = "gpt2_125m"  # whose numbers are fixed in it
CONTEXT = 1024
FILES = ("bench.py", "model.py", "configurator.py")
MICRO = 12  # its own default
LINE = re.compile(r"time per iteration: ([\d.]+)ms")


def program(checkout: Path) -> Program:
    """FileNotFoundError where the checkout lacks a file of it."""
    for name in FILES:
        if not (checkout / name).is_file():
            raise FileNotFoundError(f"{checkout} is no whole checkout of nanoGPT: it holds no {name}")
    rate = partial(tokens_per_second, checkout.absolute())
    return Program("bench.py", "nanogpt", "bench.py", MODEL, rate, MICRO, as_loop=True)


def tokens_per_second(checkout: Path, micro: int, folder: Path, seconds: float) -> float:
    """Over the 20 iterations that it times, after 10. It reads its configurator where it runs, so it runs there."""
    words = ["bench.py", "--real_data=False", "--compile=True", f"--batch_size={micro}"]
    with Reader(words, checkout, seconds, {"PYTHONDONTWRITEBYTECODE": "1"}) as lines:
        for line in lines:
            if found := LINE.search(line):
                return 1e3 * micro * CONTEXT / float(found[1])
    raise ValueError(f"{checkout / 'bench.py'} ended without its time per iteration: {lines.said}")
