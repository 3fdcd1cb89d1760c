"""A side of a measurement, in a process with its own switches and its own memory: python -m scripts.bench.worker

The first question names a class, or a function that measures in one turn, and its keywords. The answer comes when the
side has compiled and made a few updates: `update`, the seconds of one; `period`, after how many all repeats; and what
tables show. Every later question asks for a turn, of so many updates, and its answer has the `seconds` of one. What
raises is an answer too, with an `error`.
"""

import time
import traceback
from functools import partial
from importlib import import_module
from typing import Any

from harness.process import answer

contender: Any = None


def reply(question: dict[str, Any]) -> dict[str, Any]:
    global contender
    try:
        if isinstance(contender, partial):
            start, result = time.perf_counter(), contender()
            return {"seconds": time.perf_counter() - start, **result}
        if contender is not None:
            return contender.turn(**question)
        module, _, name = question["kind"].partition(":")
        contender = partial(getattr(import_module(module), name), **question["keywords"])
        if not isinstance(contender.func, type):
            return {"update": 1.0, "period": 1}
        contender = contender()
        return {"update": contender.warm_up(), **contender.facts()}
    except Exception as error:  # of our code or of others', on a machine that neither has seen
        traceback.print_exc()
        lines = str(error).strip().splitlines()  # the compiler wraps what it says of the memory in its own words
        line = next(filter(out_of_memory, lines), next(iter(lines), ""))
        return {"error": f"{type(error).__name__}: {line}"[:300]}


def out_of_memory(words: str) -> bool:
    """Say whether the device's memory was too small; cuBLAS has words of its own for it."""
    marks = ("OutOfMemoryError", "CUDA error: out of memory", "CUDA out of memory", "STATUS_ALLOC_FAILED")
    return any(mark in words for mark in marks)


if __name__ == "__main__":
    answer(reply)
