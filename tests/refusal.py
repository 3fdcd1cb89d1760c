"""The sentence in which a program refuses what it was asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

PROGRESS = ("preparing ", "probing ")  # begin lines that are no complaint


def refusal(capsys: Any, program: Callable[[Sequence[str]], object], *arguments: str, silent: bool = True) -> str:
    """Return the one sentence that a program ends in, with exit code 2; fails where it prints anything else.

    silent: whether standard output, too, must be empty.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        program(list(arguments))
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line and not line.startswith(PROGRESS)]
    assert (ended.value.code, len(lines)) == (2, 1), shown
    assert not (silent and shown.out), shown
    assert lines[0].startswith("halfstep: ")
    return lines[0].removeprefix("halfstep: ").strip()
