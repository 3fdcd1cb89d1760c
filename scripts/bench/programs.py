"""Programs of others that time themselves, begun anew for every turn, as `programs` in configs/bench.yaml says."""

import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data.writer import Writer
from harness.process import Process


def program(program: dict[str, Any], checkout: str, tokens: int) -> dict[str, Any]:
    """Return the seconds of as many tokens as an update of the other side has, at the rate that the program prints.

    Raises ValueError with its last words where it ends before; it is killed after `limit` seconds.
    """
    file = (Path(checkout) / program["file"]).resolve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                   "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for split, count in program.get("shards", {}).items():
            (place := Path(scratch) / program["shards_in"]).mkdir(parents=True, exist_ok=True)
            writer = Writer(place, split)
            writer.write(np.random.default_rng(0).integers(0, 50_257, count).astype("<u2"))
            writer.finish()
        folder = file.parent if program.get("in_checkout") else Path(scratch)
        line = [sys.executable, "-u", str(file), *program.get("words", [])]
        with Process(line, Path(scratch) / "log", environment, folder) as process:
            while process.seconds < program["limit"]:
                ended = process.ended()
                if rate := read_rate(process.output(), program):
                    return {"seconds": tokens / rate}
                if ended:
                    raise ValueError(f"{file.name} ended without its times: {process.ending().last_words}")
                time.sleep(0.1)
    raise ValueError(f"{file.name} did not end within {program['limit']} s")


def read_rate(output: str, program: dict[str, Any]) -> float | None:
    """Return the tokens per second, once the program has printed what it takes to know them.

    Its line has the milliseconds of an iteration; or the number of an update and the seconds up to it, of which those
    up to the update `from` are left out, while it compiles.
    """
    matches = re.findall(program["line"], output)
    if "from" not in program:
        return 1e3 * program["tokens"] / float(matches[-1]) if matches else None
    times, first, last = {int(n): float(s) for n, s in matches}, program["from"], program["to"]
    if not {first, last} <= times.keys():
        return None
    return (last - first) * program["tokens"] / (times[last] - times[first])
