"""Times modded-nanogpt's track 3, records/track_3_optimization/train_gpt_simple.py, as it is, on random shards.

Its architecture is another (rotary positions, RMSNorm, squared ReLU, an untied head), but with GPT-2 small's numbers:
as many weights in matrix products, and so as many FLOPs per token by the same formula.
"""

import re
import socket
from functools import partial
from pathlib import Path

import numpy as np

from data.writer import Writer
from scripts.suite.beside import PLAIN
from scripts.suite.program import Program, Reader

SCRIPT = Path("records/track_3_optimization/train_gpt_simple.py")
MODEL = "gpt2_125m"  # the one that has its numbers
MICRO = 64  # sequences per pass, fixed in the script
BATCH = 524_288  # tokens per update, fixed in the script
VALIDATION = 20 * BATCH  # tokens that it evaluates on before the first update
SKIPPED, TIMED = 15, 40  # updates: while it compiles and settles, and those that count
STEP = re.compile(r"step:(\d+)/\d+ train_time:([\d.]+)s")


def program(checkout: Path) -> Program:
    """FileNotFoundError where the checkout has no such script."""
    return Program(SCRIPT.name, "track3", PLAIN, MODEL, partial(tokens_per_second, find_script(checkout)), MICRO)


def find_script(checkout: Path) -> Path:
    if not (checkout / SCRIPT).is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of modded-nanogpt: it holds no {SCRIPT}")
    return (checkout / SCRIPT).absolute()


def prepare(folder: Path) -> None:
    """Shards of random tokens where the script looks for FineWeb's; it wants two more than a batch to take one."""
    place = folder / "data" / "fineweb10B"
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, tokens in [("fineweb_val", VALIDATION + 2), ("fineweb_train", (SKIPPED + TIMED + 4) * BATCH)]:
        writer = Writer(place, split)
        writer.write(generator.integers(0, 50_257, tokens).astype("<u2"))
        writer.finish()


def tokens_per_second(script: Path, micro: int, folder: Path, seconds: float) -> float:
    """Its rate over TIMED updates, after which it is stopped. `micro` is not asked for.

    It prints a line as it has queued an update, which the device does later; over many updates the two keep step.
    """
    if not (folder / "data").exists():
        prepare(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    times = {}
    with Reader([str(script)], folder, seconds, alone) as lines:
        for line in lines:
            if found := STEP.search(line):
                times[int(found[1])] = float(found[2])
                if SKIPPED + TIMED in times:
                    return TIMED * BATCH / (times[SKIPPED + TIMED] - times[SKIPPED])
    raise ValueError(f"{script} ended before update {SKIPPED + TIMED}: {lines.said}")
