"""Times modded-nanogpt's track 3, records/track_3_optimization/train_gpt_simple.py, as it is, on random shards.

Its architecture is another (rotary positions, RMSNorm, squared ReLU, an untied head), but with GPT-2 small's numbers:
as many weights in matrix products, and so as many FLOPs per token by the same formula.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from data.shards import Writer
from harness.sweep.process import die_with_parent

SCRIPT = Path("records/track_3_optimization/train_gpt_simple.py")
MODEL = "gpt2_125m"  # the one that has its numbers
BATCH = 524_288  # tokens per update, fixed in the script
VALIDATION = 20 * BATCH  # tokens that it evaluates on before the first update
SKIPPED, TIMED = 15, 40  # updates: while it compiles and settles, and those that count
STEP = re.compile(r"step:(\d+)/\d+ train_time:([\d.]+)s")


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


def tokens_per_second(script: Path, folder: Path, seconds: float) -> float:
    """Its rate over TIMED updates, after which it is stopped.

    It prints a line as it has queued an update, which the device does later; over many updates the two keep step.
    Raises TimeoutError after so many seconds, ValueError with its last words where it ends before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)], cwd=folder, env={**os.environ, **alone}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
    )  # fmt: skip
    over = threading.Event()

    def stop() -> None:
        over.set()
        _kill(process)

    late = threading.Timer(seconds, stop)
    late.start()
    times, last = {}, ""
    try:
        assert process.stdout
        for line in process.stdout:
            last = line.strip() or last
            if found := STEP.search(line):
                times[int(found[1])] = float(found[2])
                if SKIPPED + TIMED in times:
                    return TIMED * BATCH / (times[SKIPPED + TIMED] - times[SKIPPED])
    finally:
        late.cancel()
        _kill(process)
        process.wait()
    if over.is_set():
        raise TimeoutError
    raise ValueError(f"{script} ended before update {SKIPPED + TIMED}: {last}")


def _kill(process: subprocess.Popen[str]) -> None:
    """With the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
